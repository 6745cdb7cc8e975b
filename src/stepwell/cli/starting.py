"""What `trigger` and `run` share: arguments, options, and the start of an execution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

from stepwell import App, Workflow
from stepwell.cli.console import put_value
from stepwell.cli.follow import follow
from stepwell.cli.locate import app_of, workflow_of
from stepwell.cli.params import duration, moment
from stepwell.cli.payload import input_for
from stepwell.cli.target import Target, json_option, target_options

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: Final[tuple[Callable[[Any], Any], ...]] = (
    click.argument("workflow"),
    click.argument("words", nargs=-1, metavar="[INPUT]..."),
    click.option("--id", metavar="ID", help="Your own id for the execution."),
    click.option("--delay", callback=duration, metavar="DURATION", help="Start after this time at the earliest."),
    click.option(
        "--at", callback=moment, metavar="TIME", help="Start at this time at the earliest: ISO 8601, with a zone."
    ),
    click.option("--priority", type=int, default=0, help="Higher ones are started first."),
    click.option("--tag", "tags", metavar="TAG", multiple=True, help="For finding it again; may be repeated."),
    click.option(
        "--timeout", callback=duration, metavar="DURATION", help="Longest time from the first start to the end."
    ),
    click.option(
        "--if-exists",
        type=click.Choice(["raise", "return"]),
        default="raise",
        help="What to do if the id is taken by the same workflow and input.",
    ),
    click.option("--watch", is_flag=True, help="Show the steps while they happen."),
    json_option,
    target_options,
)


def starting_options(command: F) -> F:
    """WORKFLOW, INPUT and how to start it."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Starting:
    """An execution to be: everything about it is checked."""

    target: Target
    app: App
    workflow: Workflow[Any, Any]
    input: Any
    options: dict[str, Any]

    @classmethod
    def of(cls, target: Target, name: str, words: Sequence[str], options: dict[str, Any]) -> Starting:
        """From what was typed.

        Raises:
            ConfigError, WorkflowNotFoundError, InvalidInputError: Something of it cannot be.
        """
        app = app_of(target)
        workflow = workflow_of(app, name)
        return cls(target, app, workflow, input_for(workflow, words), options)

    async def trigger(self) -> str:
        """Start it; the id. The app must be open."""
        execution = await self.workflow.trigger(self.input, **self.options)
        return execution.id

    async def finish(self, execution_id: str, *, watch: bool, as_json: bool) -> int:
        """Wait for the end, show it, and give the exit code."""
        self.target.following = execution_id
        if watch:
            return await follow(self.app, execution_id, as_json=as_json)
        put_value(await self.app.get_execution(execution_id).result(), as_json=as_json)
        return 0
