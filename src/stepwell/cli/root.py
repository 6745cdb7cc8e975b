"""The root of the command line: global options, the list of commands, and how a call ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Final, NoReturn

import click

from stepwell.cli.exits import INTERRUPTED, PIPE_CLOSED, report
from stepwell.cli.lazy import Lazy, LazyGroup, show_help_alone
from stepwell.cli.target import Target, target_options

COMMANDS: Final = {
    "run": Lazy("stepwell.cli.run:run", "Run one workflow to its end in this process."),
    "trigger": Lazy("stepwell.cli.trigger:trigger", "Start an execution; wait for it or watch it if asked."),
    "worker": Lazy("stepwell.cli.worker:worker", "Execute workflows until told to stop."),
    "dev": Lazy("stepwell.cli.dev:dev", "A worker that starts again when the code changes."),
    "executions": Lazy("stepwell.cli.executions:executions", "Look at executions, wait for them, operate them."),
}


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        click.echo(f"stepwell {version('stepwell')}")
    except PackageNotFoundError:
        click.echo("stepwell (not installed)")
    ctx.exit()


@click.group("stepwell", cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@target_options
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Durable workflows: ordinary functions that reach their end.

    Without options, the app and the database come from STEPWELL_APP and STEPWELL_DATABASE, then from stepwell.toml or
    [tool.stepwell] in pyproject.toml, here or in a folder above. Data goes to stdout, talk to stderr.

    Exit codes: 0 ok, 1 the execution failed, 2 usage or bad payload, 3 not found, 4 wrong state, 5 no database,
    6 timeout.
    """
    show_help_alone(ctx)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        args: What follows the program's name; that of this process by default.
    """
    words = list(sys.argv[1:] if args is None else args)
    if "_STEPWELL_COMPLETE" in os.environ:
        cli.main(words, prog_name="stepwell")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_call(words))


def _call(words: list[str]) -> int:
    target = Target()
    try:
        code = _invoke(words, target)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer must not raise again when Python closes the stream.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (KeyboardInterrupt, click.Abort):
        _say_interrupted(target)
        return INTERRUPTED
    except Exception as error:
        return report(error, as_json="--json" in words)
    return code


def _invoke(words: list[str], target: Target) -> int:
    color = False if os.environ.get("NO_COLOR") else None
    try:
        with cli.make_context("stepwell", words, obj=target, color=color) as ctx:
            cli.invoke(ctx)
    except click.exceptions.Exit as end:
        return end.exit_code
    return 0


def _say_interrupted(target: Target) -> None:
    if target.following is None:
        click.echo("interrupted", err=True)
    else:
        click.echo(
            f"interrupted; execution {target.following} goes on, see: stepwell executions watch {target.following}",
            err=True,
        )
