"""Streams: appending values, and reading them by offset or by the place that emitted them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from stepwell.store.protocol import STREAM_PAGE_CHARACTERS, STREAM_PAGE_ROWS
from stepwell.store.records import EmittedTake, StreamPage, StreamRow, StreamWait
from stepwell.store.sqlite.connection import query
from stepwell.store.sqlite.writer import run_query
from stepwell.store.transitions import Emitted
from stepwell.types import TERMINAL


def append(connection: sqlite3.Connection, emitted: Iterable[Emitted]) -> None:
    """Write values in their order; those that an earlier sending wrote stay as they are."""
    rows = [
        (e.execution_id, e.stream, e.run, e.path, e.take, n, value, e.emitted_at, e.execution_id, e.stream)
        for e in emitted
        for n, value in enumerate(e.values, e.n)
    ]
    connection.executemany(query("stream_append"), rows)


def page(connection: sqlite3.Connection, execution_id: str, name: str, after: int) -> StreamPage | None:
    """The next values, and whether they are the last, as of one moment."""
    state = run_query(connection, "execution_state", id=execution_id).fetchone()
    if state is None:
        return None
    rows, more = _fill(run_query(connection, "stream_page", id=execution_id, stream=name, after=after), column=1)
    return StreamPage([StreamRow(*row) for row in rows], more, state[0] in TERMINAL)


def emitted(
    connection: sqlite3.Connection, execution_id: str, run: int, path: str, stream: str, take: int | None, start: int
) -> EmittedTake:
    """A page of what one place has emitted."""
    place = {"id": execution_id, "path": path, "stream": stream}
    number: int = take if take is not None else run_query(connection, "stream_last_take", **place).fetchone()[0] or 0
    rows, _ = _fill(run_query(connection, "stream_take", run=run, take=number, start=start, **place), column=0)
    return EmittedTake(number, [value for (value,) in rows])


def news(connection: sqlite3.Connection, waits: Sequence[StreamWait]) -> list[int]:
    """For which of these there is something to read, or nothing to come."""
    return [key for (key,) in run_query(connection, "stream_news", waits=msgspec.json.encode(waits).decode())]


def _fill(cursor: sqlite3.Cursor, column: int) -> tuple[list[Any], bool]:
    """The rows of a page, and whether others follow."""
    rows: list[Any] = []
    size = 0
    for row in cursor:
        if len(rows) == STREAM_PAGE_ROWS or size >= STREAM_PAGE_CHARACTERS:
            cursor.close()
            return rows, True
        rows.append(row)
        size += len(row[column])
    return rows, False
