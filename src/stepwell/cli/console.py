"""stdout is data, stderr is talk."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Any, Final, TextIO

import click

from stepwell.cli.text import clean, clean_line, json_text

_DATA: Final[ContextVar[TextIO | None]] = ContextVar("data", default=None)


@contextmanager
def user_code_talks() -> Generator[None]:
    """While the user's code runs in this process, what it prints is talk: only we print data."""
    token = _DATA.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _DATA.reset(token)


def data_stream() -> TextIO:
    """Where data goes."""
    return _DATA.get() or sys.stdout


def is_terminal() -> bool:
    """Whether people watch the data."""
    return data_stream().isatty()


def say(text: str) -> None:
    """Talk to people."""
    click.echo(clean_line(text), err=True)


def put(lines: Iterable[str]) -> None:
    """Print lines of data for people, made of what `paint` gave."""
    color = click.get_current_context().color
    for line in lines:
        click.echo(line, file=data_stream(), color=color)


def put_json(value: Any) -> None:
    """Print one JSON document on one line."""
    click.echo(json_text(value), file=data_stream())


def put_value(value: Any, *, as_json: bool) -> None:
    """Print a JSON value: spread out for people, on one line for programs."""
    indent = 2 if is_terminal() and not as_json else None
    click.echo(json_text(value, indent=indent), file=data_stream())


def paint(text: object, style: str = "") -> str:
    """The text on one line without control characters, in a colour, `dim`, `bold`, or plain."""
    cleaned = clean_line(text)
    if style in ("dim", "bold"):
        return click.style(cleaned, **{style: True})
    return click.style(cleaned, fg=style) if style else cleaned


def set_up_logging(level: int = logging.WARNING) -> None:
    """Log to stderr, unless the user's code has set up logging of its own."""
    if logging.root.handlers:
        return
    handler = _Handler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.root.addHandler(handler)
    logging.getLogger("stepwell").setLevel(level)


class _Handler(logging.Handler):
    """Writes to what stderr is now: a live picture puts something else in its place for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            click.echo(self.format(record), err=True)
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    """Nothing in a record can forge a line or speak to the terminal; tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        return clean_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name is logging's
        return clean(super().formatException(ei))
