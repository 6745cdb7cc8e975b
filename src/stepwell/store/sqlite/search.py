"""Which index answers a list: the one in which the fewest rows have to be looked at."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from stepwell.store.records import ExecutionFilter, ExecutionRow
from stepwell.store.sqlite.writer import run_query
from stepwell.types import STATUSES

EARLIEST: Final = -(1 << 63)
LATEST: Final = (1 << 63) - 1

FEW: Final = 1_000
"""So many rows are sorted faster than they are looked for in the order of time."""
WINDOW: Final = 200
"""So many of a tag are looked at before anything is counted."""
MANY: Final = (1_000, 10_000, 100_000)
"""How far is counted, to find out what is rarer."""
_CREATED_AT_COLUMN: Final = ExecutionRow.__struct_fields__.index("created_at") - 1

_Row: TypeAlias = "tuple[Any, ...]"


class Key(NamedTuple):
    """A place in a list: what comes after it is older, or as old with a smaller id."""

    created_at: int
    id: str


class Search:
    """Picks the index by what is filtered; whatever else is asked for is checked row by row."""

    def __init__(self, connection: sqlite3.Connection, query: ExecutionFilter, key: Key) -> None:
        self._connection = connection
        self._query = query
        self._parameters: dict[str, object] = {
            "created_at": key.created_at,
            "id": key.id,
            "since": EARLIEST if query.since is None else query.since,
            "limit": query.limit + 1,
            "statuses": json_of(query.statuses) if query.statuses else None,
            "workflow": query.workflow,
            "tags": json_of(query.tags),
            "first_id": query.id_prefix or "",
            "last_id": _end_of_prefix(query.id_prefix),
        }

    def rows(self) -> list[_Row]:
        """The rows of a page, newest first, and one more if there is one."""
        query = self._query
        if query.id_prefix is not None and self._is_rare_prefix():
            return self._run("executions_by_id")
        if query.tags:
            return self._by_tags(tuple(dict.fromkeys(query.tags)))
        if query.workflow is not None:
            return self._merge("executions_by_workflow")
        if query.statuses:
            return self._merge("executions_by_status")
        return self._run("executions_by_time")

    def _is_rare_prefix(self) -> bool:
        parameters = {name: self._parameters[name] for name in ("first_id", "last_id")}
        return run_query(self._connection, "executions_with_prefix", limit=FEW + 1, **parameters).fetchone()[0] <= FEW

    # Tags: a page of a common one is mostly found among its newest; if not, there is a tag, a status or a workflow that
    # is rarer, and the tags are looked for in its list instead.

    def _by_tags(self, tags: tuple[str, ...]) -> list[_Row]:
        edges = {tag: self._ask("tag_edge", tag=tag, most=WINDOW) for tag in tags}
        rare = next((tag for tag, edge in edges.items() if edge is None), None)
        if rare is not None:
            return self._by_tag(rare, tags)
        since = edges[tags[0]]
        newest = self._by_tag(tags[0], tags, since=since and since[0])
        if len(newest) > self._query.limit:
            return newest
        for most in MANY:
            for tag in tags:
                if self._count("count_by_tag", most, tag=tag) <= most:
                    return self._by_tag(tag, tags)
            if self._is_rarer(most):
                name = (
                    "executions_by_status_tagged" if self._query.workflow is None else "executions_by_workflow_tagged"
                )
                return self._merge(name, tag=tags[0], tags=_others(tags[0], tags))
        return self._by_tag(tags[0], tags)

    def _is_rarer(self, most: int) -> bool:
        """Whether the workflow and the statuses that are asked for have at most so many executions."""
        if self._query.workflow is None and not self._query.statuses:
            return False
        name = "count_by_status" if self._query.workflow is None else "count_by_workflow"
        left = most
        for status in self._statuses():
            left -= self._count(name, left, status=status, workflow=self._query.workflow)
            if left < 0:
                return False
        return True

    def _count(self, name: str, most: int, **parameters: object) -> int:
        found = self._ask(name, most=most + 1, **parameters)
        return 0 if found is None else found[0]

    def _ask(self, name: str, **parameters: object) -> _Row | None:
        key = {name: self._parameters[name] for name in ("created_at", "id", "since")}
        return run_query(self._connection, name, **key, **parameters).fetchone()

    def _by_tag(self, tag: str, tags: tuple[str, ...], **parameters: object) -> list[_Row]:
        return self._run("executions_by_tag", tag=tag, tags=_others(tag, tags), **parameters)

    def _merge(self, name: str, **parameters: object) -> list[_Row]:
        rows = [row for status in self._statuses() for row in self._run(name, status=status, **parameters)]
        rows.sort(key=_key_of, reverse=True)
        return rows[: self._query.limit + 1]

    def _statuses(self) -> Iterator[str]:
        return iter(set(self._query.statuses or STATUSES))

    def _run(self, name: str, **parameters: object) -> list[_Row]:
        return run_query(self._connection, name, **{**self._parameters, **parameters}).fetchall()


def json_of(values: Collection[object]) -> str:
    """The values as a JSON array."""
    return msgspec.json.encode(list(values)).decode()


def _others(tag: str, tags: tuple[str, ...]) -> str | None:
    others = [other for other in tags if other != tag]
    return json_of(others) if others else None


def _end_of_prefix(prefix: str | None) -> str:
    # All ids are ASCII, so DEL is above every one of them.
    return "\x7f" if prefix is None else f"{prefix}\x7f"


def _key_of(row: _Row) -> tuple[int, str]:
    return row[_CREATED_AT_COLUMN], row[0]
