"""`stepwell executions`: the commands that look at executions and operate them."""

from __future__ import annotations

from typing import Final

import click

from stepwell.cli.lazy import Lazy, LazyGroup, show_help_alone
from stepwell.cli.target import target_options

COMMANDS: Final = {
    "list": Lazy("stepwell.cli.listing:list_executions", "List executions, newest first."),
    "describe": Lazy("stepwell.cli.looking:describe", "Tell all about one: its steps, attempts, why it waits."),
    "steps": Lazy("stepwell.cli.looking:steps", "List the steps of one."),
    "result": Lazy("stepwell.cli.looking:result", "Wait for the end of one and print its output."),
    "watch": Lazy("stepwell.cli.looking:watch", "Show the steps of one while they happen."),
    "send-event": Lazy("stepwell.cli.sending:send_event", "Send an event to one."),
    "stream": Lazy("stepwell.cli.streaming:stream", "Print what one emits to a stream, while it happens."),
    "cancel": Lazy("stepwell.cli.operating:cancel", "End some now."),
    "pause": Lazy("stepwell.cli.operating:pause", "Start nothing new in some until they are resumed."),
    "resume": Lazy("stepwell.cli.operating:resume", "Let paused ones go on."),
    "wake": Lazy("stepwell.cli.operating:wake", "End what some sleep for now."),
    "restart": Lazy("stepwell.cli.operating:restart", "Run some again, from the beginning or from a step."),
    "retry": Lazy("stepwell.cli.operating:retry", "Run again only what failed in some."),
    "fork": Lazy("stepwell.cli.operating:fork", "Start copies of some, from the beginning or from a step."),
    "delete": Lazy("stepwell.cli.keeping:delete", "Delete some that have ended, with all that is kept of them."),
    "export": Lazy("stepwell.cli.keeping:export", "Write everything about one as one JSON document."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
@target_options
@click.pass_context
def executions(ctx: click.Context) -> None:
    """Look at executions, wait for them, operate them.

    They are named by id, by a unique beginning of one, or as `latest` and `latest:failed`. With --database, or without
    a configured app, the code of the app is not needed.
    """
    show_help_alone(ctx)
