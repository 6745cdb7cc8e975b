"""`stepwell run`: one workflow from beginning to end, in this process."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from stepwell.cli.console import say, set_up_logging, user_code_talks
from stepwell.cli.starting import Starting, starting_options
from stepwell.cli.target import Target


@click.command()
@starting_options
@click.pass_context
def run(
    ctx: click.Context, /, workflow: str, words: tuple[str, ...], watch: bool, as_json: bool, **options: Any
) -> None:
    """Run WORKFLOW to its end in this process and print the output as JSON.

    INPUT is JSON text, @file, - for stdin, or pairs: key=text and key:=json. The execution is durable as any other: if
    this process dies, the next worker goes on with it.
    """
    starting = Starting.of(ctx.ensure_object(Target), workflow, words, options)
    set_up_logging()
    with user_code_talks():
        code = asyncio.run(_run(starting, watch=watch, as_json=as_json))
    ctx.exit(code)


async def _run(starting: Starting, *, watch: bool, as_json: bool) -> int:
    async with starting.app.running(drain_timeout="2 seconds"):
        execution_id = await starting.trigger()
        say(f"started {execution_id}")
        return await starting.finish(execution_id, watch=watch, as_json=as_json)
