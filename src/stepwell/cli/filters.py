"""The options that choose executions by what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from stepwell.cli.params import since
from stepwell.types import STATUSES

F = TypeVar("F", bound=Callable[..., Any])


def filter_options(possible: Sequence[str] = STATUSES, default: Sequence[str] = STATUSES) -> Callable[[F], F]:
    """Take `--status`, `--workflow`, `--tag` and `--since`.

    Args:
        possible: The statuses that can be asked for.
        default: Those that are meant when none is asked for; only the help says so.
    """
    without = "" if set(default) == set(possible) else f" Without it: {', '.join(default)}."
    options: tuple[Callable[[Any], Any], ...] = (
        click.option(
            "--status",
            type=click.Choice(possible),
            metavar="STATUS",
            multiple=True,
            help=f"Only with this status; may be repeated. One of {', '.join(possible)}.{without}",
        ),
        click.option("--workflow", metavar="NAME", help="Only of this workflow."),
        click.option(
            "--tag", "tags", metavar="TAG", multiple=True, help="Only with this tag; repeated, with all of them."
        ),
        click.option(
            "--since",
            callback=since,
            metavar="DURATION|TIME",
            help="Only created in the last '2 hours', or since a time in ISO 8601 (UTC if it has no zone).",
        ),
    )

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
