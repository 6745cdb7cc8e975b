"""`stepwell executions stream`: what one execution emits, a line for each value."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import click

from stepwell import App, Execution, StreamItem
from stepwell.cli.console import paint, put, put_json, say
from stepwell.cli.looking import on_execution
from stepwell.cli.target import NAMING, Target, json_option, target_options
from stepwell.cli.text import json_text


@click.command(epilog=NAMING)
@click.argument("id", metavar="ID")
@click.argument("name", metavar="NAME")
@click.option("--after", type=click.IntRange(0), default=0, metavar="N", help="Only what comes after this offset.")
@click.option(
    "--follow/--no-follow", default=True, help="Wait for more until the execution ends (the default), or not."
)
@json_option
@target_options
@click.pass_context
def stream(ctx: click.Context, /, id: str, name: str, after: int, follow: bool, as_json: bool) -> None:
    """Print what one execution emits to the stream NAME, while it happens.

    Text is printed as it is, a line for each value, other values as JSON. With --json each line is a JSON document with
    offset, value and take.
    """

    async def act(_: App, execution: Execution[Any]) -> int:
        if follow:
            ctx.ensure_object(Target).following = execution.id
        if not await _print(execution.stream(name, after, follow=follow), as_json=as_json):
            say(f"nothing is in stream {name!r}" + (f" after {after}" if after else ""))
        return 0

    on_execution(ctx, id, act)


async def _print(items: AsyncIterator[StreamItem], *, as_json: bool) -> bool:
    """Print values as they come, and say whether any came; people are told when a body has begun anew."""
    take: int | None = None
    some = False
    async for item in items:
        some = True
        if as_json:
            put_json({**item._asdict(), "value": _json_ready(item.value)})
            continue
        if take is not None and item.take > take:
            say(f"take {item.take}: what follows begins anew")
        take = item.take
        put([paint(item.value if isinstance(item.value, str) else json_text(_json_ready(item.value)))])
    return some


def _json_ready(value: Any) -> Any:
    """The value, with keys that JSON can have; what else JSON cannot say becomes text when it is printed."""
    if isinstance(value, dict):
        return {str(key): _json_ready(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in cast("list[Any]", value)]
    return value
