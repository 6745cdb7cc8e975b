"""Reading for people: pages by key, never payloads in lists."""

from __future__ import annotations

import base64
import binascii
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from stepwell.errors import InvalidInputError
from stepwell.ids import check_id
from stepwell.store.records import AttemptRow, ExecutionFilter, ExecutionPage, ExecutionRow, RunRow, StepRow
from stepwell.store.sqlite.search import EARLIEST, LATEST, Key, Search, json_of
from stepwell.store.sqlite.writer import run_query
from stepwell.types import STATUSES

LARGEST_PAGE: Final = 1_000
_TAGS_FIELD: Final = ExecutionRow.__struct_fields__.index("tags")

_Row: TypeAlias = "tuple[Any, ...]"

_START: Final = Key(LATEST, "")


def execution(connection: sqlite3.Connection, execution_id: str) -> ExecutionRow | None:
    """One execution with its payloads."""
    row = run_query(connection, "execution", id=execution_id).fetchone()
    if row is None:
        return None
    tags = _tags(connection, [execution_id])
    return _execution_row(row, tags)


def steps(connection: sqlite3.Connection, execution_id: str, run: int | None) -> list[StepRow]:
    """The steps of a run with their failed attempts."""
    attempts: defaultdict[str, list[AttemptRow]] = defaultdict(list)
    for path, *columns in run_query(connection, "attempts", id=execution_id, run=run):
        attempts[path].append(AttemptRow(*columns))
    rows = run_query(connection, "steps", id=execution_id, run=run)
    return [StepRow(*row, attempts=tuple(attempts.get(row[1], ()))) for row in rows]


def children(connection: sqlite3.Connection, execution_id: str) -> list[ExecutionRow]:
    """The executions that it has started, oldest first, without payloads."""
    rows = run_query(connection, "children", id=execution_id, limit=LARGEST_PAGE).fetchall()
    tags = _tags(connection, [row[0] for row in rows])
    return [_execution_row(row, tags) for row in rows]


def runs(connection: sqlite3.Connection, execution_id: str) -> list[RunRow]:
    """All runs, oldest first."""
    return [RunRow(*row) for row in run_query(connection, "runs", id=execution_id)]


def revision(connection: sqlite3.Connection, execution_id: str) -> tuple[object, ...]:
    """Differs whenever the execution or one of its steps has changed."""
    return tuple(run_query(connection, "revision", id=execution_id).fetchone() or ())


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """How many executions there are of each status."""
    return dict.fromkeys(STATUSES, 0) | dict(run_query(connection, "counts").fetchall())


def executions(connection: sqlite3.Connection, query: ExecutionFilter) -> ExecutionPage:
    """A page, newest first.

    Raises:
        InvalidInputError: The limit, the cursor, a status or the prefix of the id is none.
    """
    key = _check(query)
    rows = Search(connection, query, key).rows()
    page = rows[: query.limit]
    tags = _tags(connection, [row[0] for row in page])
    found = [_execution_row(row, tags) for row in page]
    more = len(rows) > query.limit
    return ExecutionPage(found, _cursor(found[-1]) if more else None)


def _check(query: ExecutionFilter) -> Key:
    if not 1 <= query.limit <= LARGEST_PAGE:
        raise InvalidInputError(f"limit must be 1 to {LARGEST_PAGE}, got {query.limit}.")
    for status in query.statuses:
        if status not in STATUSES:
            raise InvalidInputError(f"status must be one of {', '.join(STATUSES)}, got {status!r}.")
    if query.id_prefix is not None:
        check_id(query.id_prefix, "id_prefix")
    return _START if query.cursor is None else _read_cursor(query.cursor)


def _cursor(row: ExecutionRow) -> str:
    return base64.urlsafe_b64encode(f"{row.created_at},{row.id}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> Key:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        created_at, _, id = text.partition(",")
        key = Key(int(created_at), check_id(id))
    except (binascii.Error, ValueError):
        raise InvalidInputError(f"cursor must be the next_cursor of the page before, got {cursor[:100]!r}.") from None
    if not EARLIEST <= key.created_at <= LATEST:
        raise InvalidInputError(f"cursor must be the next_cursor of the page before, got {cursor[:100]!r}.")
    return key


def _tags(connection: sqlite3.Connection, ids: Sequence[object]) -> dict[str, list[str]]:
    tags: defaultdict[str, list[str]] = defaultdict(list)
    for id, tag in run_query(connection, "tags", ids=json_of(ids)):
        tags[id].append(tag)
    return tags


def _execution_row(row: _Row, tags: dict[str, list[str]]) -> ExecutionRow:
    # The columns are the fields in their order, but for the tags; a list has no payloads at the end.
    values: list[Any] = [*row[:_TAGS_FIELD], tuple(tags.get(row[0], ())), *row[_TAGS_FIELD:]]
    return ExecutionRow(*values)
