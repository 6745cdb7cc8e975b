"""Commands that work on many executions: named one by one, or found by filters."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import click

from stepwell import App, Execution
from stepwell.cli.console import say
from stepwell.cli.exits import exit_code
from stepwell.errors import StepwellError

Do: TypeAlias = Callable[[Execution[Any]], Awaitable[object]]

PAGE: Final = 1_000


class Problem(NamedTuple):
    """What could not be done, and why."""

    id: str
    error: StepwellError


class Done(NamedTuple):
    """What became of all of them."""

    ids: list[str]
    problems: list[Problem]

    @property
    def code(self) -> int:
        """The exit code: that of the first problem."""
        return next((exit_code(problem.error) or 1 for problem in self.problems), 0)


def check_choice(ctx: click.Context, ids: Sequence[str], filters: Mapping[str, Any]) -> None:
    """Either ids or filters: neither is a mistake, and so is both."""
    filtered = any(value not in (None, ()) for value in filters.values())
    if bool(ids) == filtered:
        problem = "either ids or filters, not both" if ids else "ids, or filters such as --status or --workflow"
        raise click.UsageError(f"Which executions? Give {problem}.", ctx)


async def select(app: App, filters: Mapping[str, Any]) -> list[str]:
    """The ids of all that match, newest first; all of them before the first one is touched."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await app.list_executions(**filters, limit=PAGE, cursor=cursor)
        found += [info.id for info in page.executions]
        cursor = page.next_cursor
        if cursor is None:
            return found


def confirm(ctx: click.Context, verb: str, count: int, *, yes: bool) -> None:
    """Ask a person; a program has to say --yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{verb} {count} executions? Give --yes, or --dry-run to list them.", ctx)
    click.confirm(f"{verb} {count} executions?", abort=True, err=True)


async def apply_to_all(app: App, names: Collection[str], do: Do, done: str, *, exact: bool) -> Done:
    """Do it to one after the other; an error is told, and the rest goes on.

    Args:
        app: The app, connected.
        names: Ids if `exact`; else as people type them: ids, beginnings of ids, `latest`.
        do: What is done to each.
        done: What is said then, before the id.
        exact: An id that is `latest` is that execution and no other.
    """
    result = Done([], [])
    for name in names:
        try:
            execution = app.get_execution(name) if exact else await app.find_execution(name)
            await do(execution)
        except StepwellError as error:
            say(f"error: {error}")
            result.problems.append(Problem(name, error))
        else:
            say(f"{done} {execution.id}")
            result.ids.append(execution.id)
    return result
