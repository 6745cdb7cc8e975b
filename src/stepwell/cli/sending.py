"""`stepwell executions send-event`: a message to one execution."""

from __future__ import annotations

from typing import Any

import click

from stepwell import App, Execution
from stepwell.cli.console import put_json, say
from stepwell.cli.looking import on_execution
from stepwell.cli.payload import parse
from stepwell.cli.target import NAMING, json_option, target_options


@click.command("send-event", epilog=NAMING)
@click.argument("id", metavar="ID")
@click.argument("name", metavar="NAME")
@click.argument("payload", nargs=-1, metavar="[PAYLOAD]...")
@click.option(
    "--id", "event_id", metavar="EVENT_ID", help="Your own id for the event: sent again with it, the event counts once."
)
@json_option
@target_options
@click.pass_context
def send_event(
    ctx: click.Context, /, id: str, name: str, payload: tuple[str, ...], event_id: str | None, as_json: bool
) -> None:
    """Send the event NAME to one execution.

    PAYLOAD is JSON text, @file, - for stdin, or pairs: key=text and key:=json; null by default. A step that listens for
    the event receives it, now or when it comes to listen.
    """
    value = parse(payload, "PAYLOAD") if payload else None

    async def act(_: App, execution: Execution[Any]) -> int:
        await execution.send_event(name, value, id=event_id)
        say(f"sent {name!r} to {execution.id}")
        if as_json:
            put_json((await execution.info()).to_dict())
        return 0

    on_execution(ctx, id, act)
