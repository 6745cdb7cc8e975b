"""`stepwell executions`: the commands that look at executions and operate them."""

from __future__ import annotations

from typing import Final

import click

from stepwell.cli.lazy import Lazy, LazyGroup, show_help_alone
from stepwell.cli.target import target_options

COMMANDS: Final = {
    "list": Lazy("stepwell.cli.listing:list_executions", "List executions, newest first."),
    "describe": Lazy(
        "stepwell.cli.looking:describe", "Show all about an execution: its steps, attempts, what it waits for."
    ),
    "steps": Lazy("stepwell.cli.looking:steps", "List the steps of an execution."),
    "result": Lazy("stepwell.cli.looking:result", "Wait for the end of an execution and print its output."),
    "watch": Lazy("stepwell.cli.looking:watch", "Show the steps of an execution while they happen."),
    "send-event": Lazy("stepwell.cli.sending:send_event", "Send an event to an execution."),
    "stream": Lazy("stepwell.cli.streaming:stream", "Print what an execution emits to a stream, while it happens."),
    "cancel": Lazy("stepwell.cli.operating:cancel", "End executions now."),
    "pause": Lazy("stepwell.cli.operating:pause", "Hold executions: nothing new starts until `resume`."),
    "resume": Lazy("stepwell.cli.operating:resume", "Let paused executions go on."),
    "wake": Lazy("stepwell.cli.operating:wake", "End the sleeps and backoffs that are open now."),
    "restart": Lazy("stepwell.cli.operating:restart", "Run executions again, from the beginning or from a step."),
    "retry": Lazy("stepwell.cli.operating:retry", "Run again what failed, and keep every other result."),
    "fork": Lazy("stepwell.cli.operating:fork", "Start copies of executions, from the beginning or from a step."),
    "delete": Lazy("stepwell.cli.keeping:delete", "Delete ended executions, with all that is kept of them."),
    "export": Lazy("stepwell.cli.keeping:export", "Write everything about an execution as one JSON document."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
@target_options
@click.pass_context
def executions(ctx: click.Context) -> None:
    """Look at executions, wait for them, operate them.

    They are named by id, by a beginning of it that only one has, or as `latest` and `latest:failed`. With --database, or without
    a configured app, the code of the app is not needed.
    """
    show_help_alone(ctx)
