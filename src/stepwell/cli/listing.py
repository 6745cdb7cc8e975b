"""`stepwell executions list`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import click

from stepwell import App, ExecutionList
from stepwell.cli.console import put, put_json, say, set_up_logging
from stepwell.cli.filters import filter_options
from stepwell.cli.locate import viewer_of
from stepwell.cli.table import table_lines
from stepwell.cli.target import Target, json_option, target_options


@click.command("list")
@filter_options()
@click.option(
    "--limit", type=click.IntRange(1, 1000), metavar="N", default=50, show_default=True, help="At most so many."
)
@click.option("--cursor", metavar="CURSOR", help="Go on after the page that gave this cursor.")
@json_option
@target_options
@click.pass_obj
def list_executions(target: Target, /, as_json: bool, **filters: Any) -> None:
    """List executions, newest first."""
    app = viewer_of(target)
    set_up_logging()
    page = asyncio.run(_page(app, filters))
    if as_json:
        put_json({"executions": [info.to_dict() for info in page.executions], "next_cursor": page.next_cursor})
        return
    if page.executions:
        put(table_lines(page.executions, datetime.now(UTC)))
    else:
        say("no executions")
    if page.next_cursor is not None:
        say(f"more: --cursor {page.next_cursor}")


async def _page(app: App, filters: dict[str, Any]) -> ExecutionList:
    async with app.connected():
        return await app.list_executions(**filters)
