"""Reading for people: pages by key, never payloads in lists."""

from __future__ import annotations

import base64
import binascii
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from stepwell.errors import InvalidInputError
from stepwell.ids import check_id
from stepwell.store.records import AttemptRow, ExecutionFilter, ExecutionPage, ExecutionRow, RunRow, StepRow
from stepwell.store.sqlite.writer import run_query
from stepwell.types import STATUSES

LARGEST_PAGE: Final = 1_000
_FEW: Final = 1_000
"""So many rows are sorted faster than they are looked for in the order of time."""

_TAGS_FIELD: Final = ExecutionRow.__struct_fields__.index("tags")
_CREATED_AT_COLUMN: Final = ExecutionRow.__struct_fields__.index("created_at") - 1

_Row: TypeAlias = "tuple[Any, ...]"

_EARLIEST: Final = -(1 << 63)
_LATEST: Final = (1 << 63) - 1


class _Key(NamedTuple):
    created_at: int
    id: str


_START: Final = _Key(_LATEST, "")


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
    rows = _Search(connection, query, key).rows()
    page = rows[: query.limit]
    tags = _tags(connection, [row[0] for row in page])
    found = [_execution_row(row, tags) for row in page]
    more = len(rows) > query.limit
    return ExecutionPage(found, _cursor(found[-1]) if more else None)


class _Search:
    """Picks the index by what is filtered; whatever else is asked for is checked row by row."""

    def __init__(self, connection: sqlite3.Connection, query: ExecutionFilter, key: _Key) -> None:
        self._connection = connection
        self._query = query
        self._parameters: dict[str, object] = {
            "created_at": key.created_at,
            "id": key.id,
            "since": _EARLIEST if query.since is None else query.since,
            "limit": query.limit + 1,
            "statuses": _json(query.statuses) if query.statuses else None,
            "workflow": query.workflow,
            "tags": _json(query.tags),
            "first_id": query.id_prefix or "",
            "last_id": _end_of_prefix(query.id_prefix),
        }

    def rows(self) -> list[_Row]:
        query = self._query
        if query.id_prefix is not None and self._is_rare_prefix():
            return self._run("executions_by_id")
        if query.tags:
            return self._run("executions_by_tag", tag=query.tags[0])
        if query.workflow is not None:
            return self._merge("executions_by_workflow", query.statuses or STATUSES)
        if query.statuses:
            return self._merge("executions_by_status", query.statuses)
        return self._run("executions_by_time")

    def _is_rare_prefix(self) -> bool:
        parameters = {name: self._parameters[name] for name in ("first_id", "last_id")}
        return run_query(self._connection, "executions_with_prefix", limit=_FEW + 1, **parameters).fetchone()[0] <= _FEW

    def _merge(self, name: str, statuses: Collection[str]) -> list[_Row]:
        rows = [row for status in set(statuses) for row in self._run(name, status=status)]
        rows.sort(key=_key_of, reverse=True)
        return rows[: self._query.limit + 1]

    def _run(self, name: str, **parameters: object) -> list[_Row]:
        return run_query(self._connection, name, **self._parameters, **parameters).fetchall()


def _check(query: ExecutionFilter) -> _Key:
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


def _read_cursor(cursor: str) -> _Key:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        created_at, _, id = text.partition(",")
        key = _Key(int(created_at), check_id(id))
    except (binascii.Error, ValueError):
        raise InvalidInputError(f"cursor must be the next_cursor of the page before, got {cursor[:100]!r}.") from None
    if not _EARLIEST <= key.created_at <= _LATEST:
        raise InvalidInputError(f"cursor must be the next_cursor of the page before, got {cursor[:100]!r}.")
    return key


def _end_of_prefix(prefix: str | None) -> str:
    # All ids are ASCII, so DEL is above every one of them.
    return "\x7f" if prefix is None else f"{prefix}\x7f"


def _tags(connection: sqlite3.Connection, ids: Sequence[object]) -> dict[str, list[str]]:
    tags: defaultdict[str, list[str]] = defaultdict(list)
    for id, tag in run_query(connection, "tags", ids=_json(ids)):
        tags[id].append(tag)
    return tags


def _execution_row(row: _Row, tags: dict[str, list[str]]) -> ExecutionRow:
    # The columns are the fields in their order, but for the tags; a list has no payloads at the end.
    values: list[Any] = [*row[:_TAGS_FIELD], tuple(tags.get(row[0], ())), *row[_TAGS_FIELD:]]
    return ExecutionRow(*values)


def _key_of(row: _Row) -> tuple[int, str]:
    return row[_CREATED_AT_COLUMN], row[0]


def _json(values: Collection[object]) -> str:
    return msgspec.json.encode(list(values)).decode()
