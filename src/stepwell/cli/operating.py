"""`stepwell executions pause | resume | wake | restart | retry | fork | cancel`: by ids, or many by filter."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, TypeVar

import click

from stepwell import App, Execution, ExecutionInfo
from stepwell.cli.console import put, put_json, say, set_up_logging
from stepwell.cli.exits import WRONG_STATE
from stepwell.cli.locate import viewer_of
from stepwell.cli.params import since
from stepwell.cli.payload import parse
from stepwell.cli.table import table_lines
from stepwell.cli.target import Target, json_option, target_options
from stepwell.errors import StepwellError
from stepwell.types import STATUSES

F = TypeVar("F", bound=Callable[..., Any])
Do: TypeAlias = Callable[[Execution[Any]], Awaitable[Execution[Any] | None]]
"""Does it to one execution; gives another one if it makes one."""

LIVING: Final = ("queued", "running", "sleeping", "listening", "paused")
ENDED_BADLY: Final = ("failed", "cancelled", "aborted")
PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Verb:
    """How a command is called, what it says when it is done, and what it takes when no status is asked for."""

    name: str
    done: str
    statuses: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """Which executions: by name, or by filter."""

    ids: Sequence[str]
    filters: dict[str, Any]
    dry_run: bool
    yes: bool
    as_json: bool

    @property
    def is_bulk(self) -> bool:
        """Whether they are found by a filter."""
        return bool(self.filters)


def choosing(command: F) -> F:
    """Take ids or filters, and what belongs to them."""
    options = (
        click.argument("ids", metavar="[ID]...", nargs=-1),
        click.option("--status", type=click.Choice(STATUSES), multiple=True, help="All with this status."),
        click.option("--workflow", metavar="NAME", help="All of this workflow."),
        click.option("--tag", "tags", metavar="TAG", multiple=True, help="All with this tag."),
        click.option("--since", callback=since, metavar="DURATION|TIME", help="All created since."),
        click.option("--dry-run", is_flag=True, help="Only list what would be touched."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        json_option,
        target_options,
        click.pass_context,
    )
    decorated: Any = command
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


@click.command()
@choosing
def pause(ctx: click.Context, /, **chosen: Any) -> None:
    """Start nothing new until `resume`; bodies that run end.

    Deadlines go on. With filters: all that live and match.
    """
    _operate(ctx, Verb("pause", "paused", LIVING[:-1]), chosen, lambda execution: execution.pause())


@click.command()
@choosing
def resume(ctx: click.Context, /, **chosen: Any) -> None:
    """Let paused executions go on."""
    _operate(ctx, Verb("resume", "resumed", ("paused",)), chosen, lambda execution: execution.resume())


@click.command()
@choosing
def wake(ctx: click.Context, /, **chosen: Any) -> None:
    """End what executions sleep for now, and their backoffs."""
    _operate(ctx, Verb("wake", "woke", ("sleeping",)), chosen, lambda execution: execution.wake())


@click.command()
@click.option("--from-step", metavar="PATH", help="Keep the steps that were recorded before this one.")
@click.option("--input", "text", metavar="JSON", help="Another input: JSON text, @file, or - for stdin.")
@choosing
def restart(ctx: click.Context, /, from_step: str | None, text: str | None, **chosen: Any) -> None:
    """Run executions again, from the beginning or from a step. One that still runs is cancelled first.

    Idempotency keys are new: side effects happen again.
    """
    input = ... if text is None else parse([text])
    _operate(
        ctx, Verb("restart", "restarted"), chosen, lambda execution: execution.restart(from_step=from_step, input=input)
    )


@click.command()
@choosing
def retry(ctx: click.Context, /, **chosen: Any) -> None:
    """Run again what failed, was cancelled or undone, and keep every other result.

    Idempotency keys stay. With filters: all that failed, were cancelled or aborted, and match.
    """
    _operate(ctx, Verb("retry", "retried", ENDED_BADLY), chosen, lambda execution: execution.retry())


@click.command()
@click.option("--from-step", metavar="PATH", help="Keep the steps that were recorded before this one.")
@click.option("--input", "text", metavar="JSON", help="Another input: JSON text, @file, or - for stdin.")
@choosing
def fork(ctx: click.Context, /, from_step: str | None, text: str | None, **chosen: Any) -> None:
    """Start copies of executions, from the beginning or from a step, and print their ids."""
    input = ... if text is None else parse([text])
    _operate(ctx, Verb("fork", "forked"), chosen, lambda execution: execution.fork(from_step=from_step, input=input))


@click.command()
@click.option("--reason", help="Why; kept with the execution.")
@click.option("--undo", is_flag=True, help="Undo their completed steps first; a worker must run for that.")
@choosing
def cancel(ctx: click.Context, /, reason: str | None, undo: bool, **chosen: Any) -> None:
    """End executions now: no further step starts, late results are thrown away.

    With filters: all that live and match.
    """
    done = "will be cancelled when their steps are undone:" if undo else "cancelled"
    _operate(ctx, Verb("cancel", done, LIVING), chosen, lambda execution: execution.cancel(reason, undo))


def _operate(ctx: click.Context, verb: Verb, chosen: dict[str, Any], do: Do) -> None:
    choice = _choice(ctx, chosen)
    app = viewer_of(ctx.ensure_object(Target))
    set_up_logging()
    ctx.exit(asyncio.run(_Operation(app, verb, choice, do).run()))


def _choice(ctx: click.Context, chosen: dict[str, Any]) -> Choice:
    ids: tuple[str, ...] = chosen.pop("ids")
    flags = {name: chosen.pop(name) for name in ("dry_run", "yes", "as_json")}
    filters = {name: value for name, value in chosen.items() if value not in (None, ())}
    if bool(ids) == bool(filters):
        problem = "either ids or filters, not both" if ids else "ids, or filters such as --status or --workflow"
        raise click.UsageError(f"Which executions? Give {problem}.", ctx)
    return Choice(ids, filters, **flags)


@dataclass(slots=True)
class _Operation:
    """One call of a command."""

    app: App
    verb: Verb
    choice: Choice
    do: Do
    results: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    failed: int = 0

    async def run(self) -> int:
        async with self.app.connected():
            if len(self.choice.ids) == 1 and not self.choice.dry_run:
                return await self._one(self.choice.ids[0])
            found = await self._found()
            if self.choice.dry_run:
                self._list(found)
                return WRONG_STATE if self.failed else 0
            if found and self.choice.is_bulk:
                self._confirm(len(found))
            for info in found:
                await self._try(info.id)
        if self.choice.as_json:
            put_json({"executions": self.results, "count": len(self.results), "failed": self.failed})
        elif self.choice.is_bulk:
            say(f"{self.verb.done} {len(self.results) - self.failed} of {len(found)} executions")
        return WRONG_STATE if self.failed else 0

    async def _one(self, name: str) -> int:
        """An error is the whole answer."""
        execution = await self.app.find_execution(name)
        made = await self._do(execution)
        if self.choice.as_json:
            put_json((await (made or execution).info()).to_dict())
        return 0

    async def _do(self, execution: Execution[Any]) -> Execution[Any] | None:
        made = await self.do(execution)
        say(f"{self.verb.done} {execution.id}" + ("" if made is None else f" as {made.id}"))
        if made is not None and not self.choice.as_json:
            put([made.id])
        return made

    async def _try(self, id: str) -> None:
        """An error is told, and the rest goes on."""
        try:
            made = await self._do(self.app.get_execution(id))
        except StepwellError as error:
            self._refuse(id, error)
            return
        info = await (made or self.app.get_execution(id)).info()
        result: dict[str, Any] = {"id": id, "error": None, "status": info.status}
        self.results.append(result if made is None else {**result, "new_id": made.id})

    def _refuse(self, name: str, error: StepwellError) -> None:
        self.failed += 1
        say(f"error: {error}")
        self.results.append({"id": name, "error": {"code": error.code, "message": str(error)}})

    async def _found(self) -> list[ExecutionInfo]:
        if self.choice.is_bulk:
            return await self._matching()
        found: list[ExecutionInfo] = []
        for name in self.choice.ids:
            try:
                found.append(await (await self.app.find_execution(name)).info())
            except StepwellError as error:
                self._refuse(name, error)
        return found

    async def _matching(self) -> list[ExecutionInfo]:
        """All of them before the first is touched: what changes its status must not slip out of a later page."""
        filters: dict[str, Any] = {"status": self.verb.statuses, **self.choice.filters}
        found: list[ExecutionInfo] = []
        cursor: str | None = None
        while True:
            page = await self.app.list_executions(**filters, limit=PAGE, cursor=cursor)
            found += page.executions
            cursor = page.next_cursor
            if cursor is None:
                return found

    def _list(self, found: Sequence[ExecutionInfo]) -> None:
        if self.choice.as_json:
            put_json({"executions": [info.to_dict() for info in found], "count": len(found)})
        elif found:
            put(table_lines(found, datetime.now(UTC)))
        say(f"would {self.verb.name} {len(found)} executions")

    def _confirm(self, count: int) -> None:
        if sys.stdin.isatty() and not self.choice.yes:
            click.confirm(f"{self.verb.name} {count} executions?", abort=True, err=True)
