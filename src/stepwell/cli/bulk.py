"""One command on many executions: they are named one by one, or found by filters."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Final

import click

from stepwell import App, Execution, ExecutionInfo
from stepwell.cli.console import paint, put, put_json, say, set_up_logging
from stepwell.cli.exits import FAILED, exit_code, say_error
from stepwell.cli.filters import filter_options
from stepwell.cli.locate import viewer_of
from stepwell.cli.table import table_lines
from stepwell.cli.target import NAMING, Target, json_option, target_options
from stepwell.errors import StepwellError
from stepwell.types import STATUSES

CHOOSING: Final = (
    "Give IDs, or filters (--status, --workflow, --tag, --since) that must all match. An error with one does not stop the "
    f"rest; the exit code is that of the first. {NAMING}"
)
PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Verb:
    """A command that does something to executions.

    Attributes:
        name: What it is called.
        takes: The statuses that filters find when none is asked for.
        possible: The statuses that can be asked for.
        is_grave: What it does cannot be taken back: who asks for many without a terminal has to say `--yes`.
        is_last: Nothing is left to read afterwards, or a stranger that has taken the id.
    """

    name: str
    takes: Sequence[str] = STATUSES
    possible: Sequence[str] = STATUSES
    is_grave: bool = False
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Deed:
    """What is done to one execution, which may give another one, and what is said then before its id."""

    do: Callable[[Execution[Any]], Awaitable[Execution[Any] | None]]
    done: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Which executions, and whether to ask, or only to look."""

    ids: Sequence[str]
    filters: Mapping[str, Any]
    dry_run: bool
    yes: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one execution: its status if it is known, or an error, and the execution that was made of it."""

    id: str
    status: str | None = None
    error: StepwellError | None = None
    new_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `new_id` only where there is one."""
        error = None if self.error is None else {"code": self.error.code, "message": str(self.error)}
        made = {} if self.new_id is None else {"new_id": self.new_id}
        return {"id": self.id, "status": self.status, "error": error, **made}


def on_many(verb: Verb) -> Callable[[Callable[..., Deed]], Callable[..., None]]:
    """Make a command of what is done to one: it takes IDs or filters, and what belongs to them.

    The function takes the command's own options and gives what is to be done to each.
    """
    needed = "; has to be given where there is no terminal" if verb.is_grave else ""

    def decorate(command: Callable[..., Deed]) -> Callable[..., None]:
        @click.argument("ids", metavar="[ID]...", nargs=-1)
        @filter_options(verb.possible, verb.takes)
        @click.option("--dry-run", is_flag=True, help=f"Only list what it would {verb.name}; change nothing.")
        @click.option("--yes", is_flag=True, help=f"With filters, do not ask first{needed}.")
        @json_option
        @target_options
        @click.pass_context
        @wraps(command)
        def run(
            ctx: click.Context,
            /,
            ids: tuple[str, ...],
            status: tuple[str, ...],
            workflow: str | None,
            tags: tuple[str, ...],
            since: datetime | float | str | None,
            dry_run: bool,
            yes: bool,
            as_json: bool,
            **own: Any,
        ) -> None:
            given = {"status": status, "workflow": workflow, "tags": tags, "since": since}
            filters = {name: value for name, value in given.items() if value not in (None, ())}
            _check(ctx, ids, filters)
            deed = command(**own)
            app = viewer_of(ctx.ensure_object(Target))
            set_up_logging()
            choice = Choice(ids, filters, dry_run, yes)
            ctx.exit(asyncio.run(_Operation(ctx, app, verb, choice, as_json, deed).run()))

        return run

    return decorate


def _check(ctx: click.Context, ids: Sequence[str], filters: Mapping[str, Any]) -> None:
    """Neither ids nor filters is a mistake, and so is both."""
    if bool(ids) == bool(filters):
        problem = "either ids or filters, not both" if ids else "ids, or filters such as --status or --workflow"
        raise click.UsageError(f"Which executions? Give {problem}.", ctx)


@dataclass(slots=True)
class _Operation:
    """One call of a command."""

    ctx: click.Context
    app: App
    verb: Verb
    choice: Choice
    as_json: bool
    deed: Deed
    outcomes: list[Outcome] = field(default_factory=list[Outcome])

    async def run(self) -> int:
        """Do it, or list what it would be done to; the exit code is that of the first error."""
        async with self.app.connected():
            if self.choice.dry_run:
                self._list([info async for info in self._chosen()])
            else:
                # All are known before the first is touched: what changes must not slip out of a later page, nor
                # `latest` come to mean what was made a moment ago.
                await self._do_all([info.id async for info in self._chosen()])
        if self.as_json:
            failed = sum(outcome.error is not None for outcome in self.outcomes)
            executions = [outcome.to_dict() for outcome in self.outcomes]
            put_json({"executions": executions, "count": len(executions), "failed": failed})
        errors = (outcome.error for outcome in self.outcomes if outcome.error is not None)
        return next((exit_code(error) or FAILED for error in errors), 0)

    def _chosen(self) -> AsyncIterator[ExecutionInfo]:
        return self._named() if self.choice.ids else self._matching()

    async def _named(self) -> AsyncIterator[ExecutionInfo]:
        """Each once, by whatever names; a name that means none is told."""
        seen: set[str] = set()
        for name in self.choice.ids:
            try:
                info = await (await self.app.find_execution(name)).info()
            except StepwellError as error:
                self._refuse(name, error)
                continue
            if info.id not in seen:
                seen.add(info.id)
                yield info

    async def _matching(self) -> AsyncIterator[ExecutionInfo]:
        """All that match, newest first."""
        filters: dict[str, Any] = {"status": self.verb.takes, **self.choice.filters}
        cursor: str | None = None
        while True:
            page = await self.app.list_executions(**filters, limit=PAGE, cursor=cursor)
            for info in page.executions:
                yield info
            cursor = page.next_cursor
            if cursor is None:
                return

    def _list(self, found: Sequence[ExecutionInfo]) -> None:
        self.outcomes += [Outcome(info.id, info.status) for info in found]
        if found and not self.as_json:
            put(table_lines(found, datetime.now(UTC)))
        say(f"would {self.verb.name} {_counted(len(found))}")

    async def _do_all(self, ids: Sequence[str]) -> None:
        if ids and not self.choice.ids:
            self._confirm(len(ids))
        for id in ids:
            await self._do(self.app.get_execution(id))
        if not self.choice.ids or len(self.outcomes) > 1:
            done = sum(outcome.error is None for outcome in self.outcomes)
            say(f"{self.deed.done} {done} of {_counted(len(self.outcomes))}")

    def _confirm(self, count: int) -> None:
        """Ask a person; a program has to say `--yes` to what is grave."""
        if self.choice.yes:
            return
        question = f"{self.verb.name} {_counted(count)}?"
        # Python has no stdin if it was started with a closed one.
        if sys.stdin is not None and sys.stdin.isatty():
            click.confirm(question, abort=True, err=True)
        elif self.verb.is_grave:
            raise click.UsageError(f"{question} Give --yes, or --dry-run to list them.", self.ctx)

    async def _do(self, execution: Execution[Any]) -> None:
        """An error is told, and the rest goes on."""
        try:
            made = await self.deed.do(execution)
        except StepwellError as error:
            self._refuse(execution.id, error)
            return
        new_id = None if made is None else made.id
        say(f"{self.deed.done} {execution.id}" + ("" if new_id is None else f" as {new_id}"))
        if new_id is not None and not self.as_json:
            put([paint(new_id)])
        self.outcomes.append(Outcome(execution.id, await self._status_after(execution), new_id=new_id))

    async def _status_after(self, execution: Execution[Any]) -> str | None:
        """For programs; None for people, and if it cannot be read: it is done all the same."""
        if self.verb.is_last or not self.as_json:
            return None
        try:
            return (await execution.info()).status
        except StepwellError:
            return None

    def _refuse(self, name: str, error: StepwellError) -> None:
        say_error(error)
        self.outcomes.append(Outcome(name, error=error))


def _counted(count: int) -> str:
    return "1 execution" if count == 1 else f"{count} executions"
