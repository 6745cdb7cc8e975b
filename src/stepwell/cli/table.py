"""A list of executions in columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from datetime import datetime

import click

from stepwell import ExecutionInfo
from stepwell.cli.console import paint
from stepwell.cli.describe import waiting
from stepwell.cli.text import duration_text
from stepwell.cli.tree import paint_status

HEAD = ("ID", "WORKFLOW", "STATUS", "CREATED", "TOOK", "WAITS FOR")


def table_lines(executions: Sequence[ExecutionInfo], now: datetime) -> Iterator[str]:
    """A head, and a line for each execution."""
    rows = [tuple(paint(title, "dim") for title in HEAD), *(_row(info, now) for info in executions)]
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(info: ExecutionInfo, now: datetime) -> tuple[str, ...]:
    created = f"{duration_text(max((now - info.created_at).total_seconds(), 0.0))} ago"
    took = ""
    if info.started_at is not None:
        took = duration_text(((info.finished_at or now) - info.started_at).total_seconds())
    return (
        paint(info.id),
        paint(info.workflow),
        paint_status(info.status),
        created,
        took,
        paint(waiting(info, now) or ""),
    )


def _width(text: str) -> int:
    """How many cells of a terminal the text takes."""
    plain = click.unstyle(text)
    if plain.isascii():
        return len(plain)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in plain)
