"""All rows of one execution, wherever they stand: to show them all, and to delete them."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from stepwell.store.records import Everything
from stepwell.store.sqlite.writer import run_query

TABLES: Final = ("attempts", "events", "payloads", "steps", "streams", "tags")
"""Every table, besides executions, that keeps rows of an execution (column execution_id).

Each has a `rows_<table>.sql` and a `delete_<table>.sql`.
"""


def everything(connection: sqlite3.Connection, execution_id: str) -> Everything | None:
    """All that the database keeps of an execution, None when there is none."""
    found = _rows(connection, "executions", execution_id)
    if not found:
        return None
    tables = {table: _rows(connection, table, execution_id) for table in TABLES}
    children = [id for (id,) in run_query(connection, "rows_children", id=execution_id)]
    return Everything(found[0], tables, children)


def delete(connection: sqlite3.Connection, execution_id: str) -> int:
    """Delete all that the database keeps of an execution; returns how many rows that were."""
    tables = (*TABLES, "executions")
    return sum(run_query(connection, f"delete_{table}", id=execution_id).rowcount for table in tables)


def _rows(connection: sqlite3.Connection, table: str, execution_id: str) -> list[dict[str, Any]]:
    cursor = run_query(connection, f"rows_{table}", id=execution_id)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]
