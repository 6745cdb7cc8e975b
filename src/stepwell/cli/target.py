"""What a call of the command line works on, and the options that say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

NAMING: Final = (
    "An ID may be shortened to a beginning that only one has. latest is the newest execution, latest:STATUS the newest "
    "with this status, such as latest:failed."
)


@dataclass(slots=True)
class Target:
    """The app and database given by flags; None is what configuration decides.

    `following` is the execution whose end is awaited, so that an interruption can say that it goes on.
    """

    app: str | None = None
    database: str | None = None
    following: str | None = None


def target_options(command: F) -> F:
    """Take `--app` and `--database`, before or after the name of a command; the last one counts."""
    app = click.option(
        "--app",
        metavar="MODULE:ATTRIBUTE",
        help="Where the App is, such as shop:app.",
        expose_value=False,
        callback=_remember,
    )
    database = click.option(
        "--database",
        metavar="URL",
        help="The database, such as sqlite:///shop.db.",
        expose_value=False,
        callback=_remember,
    )
    return app(database(command))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def _remember(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    target = ctx.find_object(Target)
    if target is not None and value is not None:
        setattr(target, str(param.name), value)
