"""`stepwell trigger`: start an execution that a worker executes."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from stepwell.cli.console import is_terminal, put, put_json, say, set_up_logging
from stepwell.cli.starting import Starting, starting_options
from stepwell.cli.target import Target


@click.command()
@starting_options
@click.option("--wait", is_flag=True, help="Wait for the end and print the output.")
@click.pass_context
def trigger(
    ctx: click.Context, /, workflow: str, words: tuple[str, ...], wait: bool, watch: bool, as_json: bool, **options: Any
) -> None:
    """Start an execution of WORKFLOW and print its id.

    INPUT is JSON text, @file, - for stdin, or pairs: key=text and key:=json. A worker executes it; without one it stays
    in the queue.
    """
    starting = Starting.of(ctx.ensure_object(Target), workflow, words, options)
    set_up_logging()
    ctx.exit(asyncio.run(_trigger(starting, wait=wait, watch=watch, as_json=as_json)))


async def _trigger(starting: Starting, *, wait: bool, watch: bool, as_json: bool) -> int:
    async with starting.app.connected():
        execution_id = await starting.trigger()
        if wait or watch:
            if not is_terminal() or not watch:
                say(f"triggered {execution_id}")
            return await starting.finish(execution_id, watch=watch, as_json=as_json)
        if as_json:
            put_json((await starting.app.get_execution(execution_id).info()).to_dict())
        else:
            put([execution_id])
        return 0
