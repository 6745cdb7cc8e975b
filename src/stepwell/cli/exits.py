"""How a call ends: exit codes, and one line for each error."""

from __future__ import annotations

from typing import Final

import click

from stepwell.cli.text import clean, clean_line, json_text
from stepwell.errors import (
    ConfigError,
    ExecutionAbortedError,
    ExecutionCancelledError,
    ExecutionExistsError,
    ExecutionFailedError,
    ExecutionNotFoundError,
    InvalidTransitionError,
    SchemaVersionError,
    StepwellError,
    StoreUnavailableError,
)

FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
WRONG_STATE: Final = 4
NO_DATABASE: Final = 5
TIMEOUT: Final = 6
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141


class WorkflowNotFoundError(StepwellError):
    """The app has no workflow of this name."""

    code = "workflow_not_found"


_CODES: Final[tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], int], ...]] = (
    ((ExecutionFailedError, ExecutionCancelledError, ExecutionAbortedError), FAILED),
    ((ExecutionNotFoundError, WorkflowNotFoundError), NOT_FOUND),
    ((InvalidTransitionError, ExecutionExistsError), WRONG_STATE),
    ((StoreUnavailableError, SchemaVersionError), NO_DATABASE),
    (TimeoutError, TIMEOUT),
    ((StepwellError, click.ClickException), USAGE),
)


def exit_code(error: Exception) -> int | None:
    """The exit code of an error that we know; None for one that is a fault of the program."""
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), None)


def report(error: Exception, *, as_json: bool) -> int:
    """Say on stderr what went wrong, and give the exit code.

    Raises:
        Exception: The error itself, when it is none that we know: then the traceback is what people need.
    """
    number = exit_code(error)
    if number is None:
        raise error
    say_error(error)
    if as_json:
        click.echo(json_text({"error": {"code": _code(error), "message": _message(error)}}), err=True)
    return number


def say_error(error: Exception) -> None:
    """Say on stderr what went wrong."""
    message = _message(error)
    click.secho("error:", fg="red", bold=True, err=True, nl=False)
    # Of the configuration all mistakes are listed, each on a line of its own.
    click.echo(f" {clean(message) if isinstance(error, ConfigError) else clean_line(message)}", err=True)


def _code(error: Exception) -> str:
    if isinstance(error, StepwellError):
        return error.code
    return "timeout" if isinstance(error, TimeoutError) else "usage"


def _message(error: Exception) -> str:
    if not isinstance(error, click.ClickException):
        return str(error)
    message = clean_line(error.format_message())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{message} Try '{error.ctx.command_path} --help'."
    return message
