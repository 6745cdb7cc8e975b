"""Transactions that delete executions: only terminal ones, and none that a living execution refers to."""

from __future__ import annotations

import sqlite3
from typing import Final

from stepwell.store.records import Deletion, Expired
from stepwell.store.sqlite import rows
from stepwell.store.sqlite.writer import run_query
from stepwell.types import TERMINAL

_ROWS_AT_ONCE: Final = 2_000
"""After so many rows a transaction ends, however few executions that were: others wait for it."""
_EARLIEST: Final = -(1 << 63)


def delete(connection: sqlite3.Connection, execution_id: str) -> Deletion | None:
    """Delete an execution with all its rows; None when it does not exist."""
    found = run_query(connection, "deletable", id=execution_id).fetchone()
    if found is None:
        return None
    status, orphaning = found
    if status not in TERMINAL or orphaning:
        return Deletion(execution_id, False, status, bool(orphaning), None)
    needed_by = _needed_by(connection, execution_id)
    if needed_by is None:
        _erase(connection, execution_id)
    return Deletion(execution_id, needed_by is None, status, False, needed_by)


def expire(connection: sqlite3.Connection, now: int, limit: int, after: tuple[int, str] | None) -> Expired:
    """Delete a page of what is kept no longer."""
    from_time, from_id = after or (_EARLIEST, "")
    page = run_query(connection, "expired", now=now, after=from_time, after_id=from_id, limit=limit).fetchall()
    deleted = written = 0
    for due, id in page:
        if written >= _ROWS_AT_ONCE:
            return Expired(deleted, after, None)
        after = (due, id)
        status, orphaning = run_query(connection, "deletable", id=id).fetchone()
        if status in TERMINAL and not orphaning and _needed_by(connection, id) is None:
            written += _erase(connection, id)
            deleted += 1
    if len(page) == limit:
        return Expired(deleted, after, None)
    return Expired(deleted, None, first_expiry(connection, now))


def first_expiry(connection: sqlite3.Connection, after: int = _EARLIEST) -> int | None:
    """When the first execution, or the first one after a moment, has been kept for long enough."""
    found = run_query(connection, "expiry_next", after=after).fetchone()
    return None if found is None else found[0]


def _erase(connection: sqlite3.Connection, execution_id: str) -> int:
    run_query(connection, "children_release", id=execution_id)
    return rows.delete(connection, execution_id)


def _needed_by(connection: sqlite3.Connection, execution_id: str) -> str | None:
    found = run_query(connection, "needed_by", id=execution_id).fetchone()
    return None if found is None else found[0]
