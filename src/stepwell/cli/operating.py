"""`stepwell executions pause | resume | wake | cancel | restart | retry | fork`: by ids, or many by filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from stepwell.cli.bulk import CHOOSING, Deed, Verb, on_many
from stepwell.cli.payload import parse

F = TypeVar("F", bound=Callable[..., Any])

ACTIVE: Final = ("queued", "running", "sleeping", "listening")
ENDED_BADLY: Final = ("failed", "cancelled", "aborted")


def new_run_options(command: F) -> F:
    """Where another run begins, and with which input."""
    from_step = click.option(
        "--from-step", metavar="PATH", help="Begin at this step: keep the results that were recorded before it."
    )
    input = click.option(
        "--input", metavar="JSON", help="Another input: JSON text, @file, or - for stdin. The same by default."
    )
    return from_step(input(command))


def _options(from_step: str | None, input: str | None) -> dict[str, Any]:
    return {"from_step": from_step, "input": ... if input is None else parse([input])}


@click.command(epilog=CHOOSING)
@on_many(Verb("pause", ACTIVE))
def pause() -> Deed:
    """Hold executions: nothing new starts until `resume`.

    Bodies that run come to their end. Sleeps and timeouts go on meanwhile.
    """
    return Deed(lambda execution: execution.pause(), "paused")


@click.command(epilog=CHOOSING)
@on_many(Verb("resume", ("paused",)))
def resume() -> Deed:
    """Let paused executions go on."""
    return Deed(lambda execution: execution.resume(), "resumed")


@click.command(epilog=CHOOSING)
@on_many(Verb("wake", ("sleeping",)))
def wake() -> Deed:
    """End the sleeps and the backoffs of executions that are open now.

    Later ones are slept as ever. Steps that listen for an event and executions that have not started are left alone.
    """
    return Deed(lambda execution: execution.wake(), "woke")


@click.command(epilog=CHOOSING)
@new_run_options
@on_many(Verb("restart", is_grave=True))
def restart(from_step: str | None, input: str | None) -> Deed:
    """Run executions again, from the beginning or from a step.

    One that has not ended is cancelled first. Idempotency keys are new: side effects happen again. To do again only what
    failed, use `retry`.
    """
    options = _options(from_step, input)
    return Deed(lambda execution: execution.restart(**options), "restarted")


@click.command(epilog=CHOOSING)
@on_many(Verb("retry", ENDED_BADLY))
def retry() -> Deed:
    """Run again what failed, was cancelled or undone, and keep every other result.

    Idempotency keys stay, so that other systems can tell that it is the same request.
    """
    return Deed(lambda execution: execution.retry(), "retried")


@click.command(epilog=CHOOSING)
@new_run_options
@on_many(Verb("fork", is_grave=True))
def fork(from_step: str | None, input: str | None) -> Deed:
    """Start copies of executions, from the beginning or from a step, and print their ids.

    The originals go on untouched. Idempotency keys are new: side effects happen again.
    """
    options = _options(from_step, input)
    return Deed(lambda execution: execution.fork(**options), "forked")


@click.command(epilog=CHOOSING)
@click.option("--reason", metavar="TEXT", help="Why; kept with the execution.")
@click.option("--undo", is_flag=True, help="Undo completed steps first; a worker must run for that.")
@on_many(Verb("cancel", (*ACTIVE, "paused"), is_grave=True))
def cancel(reason: str | None, undo: bool) -> Deed:
    """End executions now: no further step starts, late results are thrown away."""
    done = "will be cancelled when their steps are undone:" if undo else "cancelled"
    return Deed(lambda execution: execution.cancel(reason, undo), done)
