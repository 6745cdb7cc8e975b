"""`stepwell executions describe | steps | result | watch`: one execution."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Concatenate, ParamSpec, TypeAlias

import click

from stepwell import App, Execution, PayloadCodecError
from stepwell.cli.console import put, put_json, put_value, set_up_logging
from stepwell.cli.describe import description
from stepwell.cli.follow import follow
from stepwell.cli.locate import viewer_of
from stepwell.cli.params import duration
from stepwell.cli.target import NAMING, Target, json_option, target_options
from stepwell.cli.tree import tree_lines

P = ParamSpec("P")
Act: TypeAlias = Callable[[App, Execution[Any]], Awaitable[int]]


def on_one(command: Callable[Concatenate[click.Context, P], None]) -> Callable[P, None]:
    """Take an ID and what all commands take that work on one execution."""
    return click.argument("id", metavar="ID")(json_option(target_options(click.pass_context(command))))


@click.command(epilog=NAMING)
@on_one
def describe(ctx: click.Context, /, id: str, as_json: bool) -> None:
    """Show all about one execution: its steps, attempts and errors, and what it waits for."""

    async def act(_: App, execution: Execution[Any]) -> int:
        info, steps, children = await execution.info(), await execution.steps(), await execution.children()
        earlier = (await execution.runs())[:-1]
        if as_json:
            parts = {
                "steps": [step.to_dict() for step in steps],
                "children": [child.to_dict() for child in children],
                "earlier_runs": [run.to_dict() for run in earlier],
            }
            put_json({**info.to_dict(), **parts})
        else:
            put(description(info, steps, children, datetime.now(UTC), earlier))
        return 0

    on_execution(ctx, id, act)


@click.command(epilog=NAMING)
@on_one
def steps(ctx: click.Context, /, id: str, as_json: bool) -> None:
    """List the steps of one execution."""

    async def act(_: App, execution: Execution[Any]) -> int:
        found = await execution.steps()
        if as_json:
            put_json([step.to_dict() for step in found])
        else:
            put(tree_lines(found, datetime.now(UTC)))
        return 0

    on_execution(ctx, id, act)


@click.command(epilog=NAMING)
@click.option(
    "--timeout",
    callback=duration,
    metavar="DURATION",
    help="Wait so long at most, such as '30 seconds'; then exit with 6.",
)
@on_one
def result(ctx: click.Context, /, id: str, timeout: float | str | None, as_json: bool) -> None:
    """Wait for the end of one execution and print its output as JSON."""

    async def act(_: App, execution: Execution[Any]) -> int:
        try:
            value = await execution.result(timeout)
        except PayloadCodecError:
            # What cannot be read is shown as a mask: looking on needs no key and no codec.
            value = (await execution.info()).output
        put_value(value, as_json=as_json)
        return 0

    on_execution(ctx, id, act)


@click.command(epilog=NAMING)
@on_one
def watch(ctx: click.Context, /, id: str, as_json: bool) -> None:
    """Show the steps of one execution while they happen, until its end.

    In a terminal it is a live picture, otherwise a line for each change; with --json a JSON document for each.
    """

    async def act(app: App, execution: Execution[Any]) -> int:
        return await follow(app, execution.id, as_json=as_json)

    on_execution(ctx, id, act)


def on_execution(ctx: click.Context, id: str, act: Act) -> None:
    """Find the execution and do something with it; the exit code is what that returns."""
    target = ctx.ensure_object(Target)
    app = viewer_of(target)
    set_up_logging()

    async def find_and_act() -> int:
        async with app.connected():
            execution = await app.find_execution(id)
            if ctx.command in (result, watch):
                target.following = execution.id
            return await act(app, execution)

    ctx.exit(asyncio.run(find_and_act()))
