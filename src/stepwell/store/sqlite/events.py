"""Events: kept in the order in which they were accepted, and taken by the step that listens."""

from __future__ import annotations

import sqlite3

from stepwell.store.sqlite.writer import run_query
from stepwell.store.transitions import EventSent, Exists, Over, Unknown
from stepwell.types import TERMINAL


def send(connection: sqlite3.Connection, event: EventSent) -> Exists | Over | Unknown | None:
    """Keep the event and wake the execution if it listens for it outside of memory."""
    known = run_query(connection, "event_known", execution_id=event.execution_id, id=event.id).fetchone()
    if known is not None:
        return None if known == (event.name,) else Exists(event.execution_id, same=False)
    state = run_query(connection, "execution_state", id=event.execution_id).fetchone()
    if state is None:
        return Unknown(event.execution_id)
    if state[0] in TERMINAL:
        return Over(event.execution_id, state[0], None)
    fields = {name: getattr(event, name) for name in EventSent.__struct_fields__}
    run_query(connection, "event_insert", **fields)
    run_query(connection, "event_wake", execution_id=event.execution_id, name=event.name, now=event.sent_at)
    return None


def take(connection: sqlite3.Connection, execution_id: str, name: str, run: int, path: str, now: int) -> str | None:
    """The payload of the oldest event of this name that waits, which from now on belongs to this step."""
    row = run_query(connection, "event_oldest", execution_id=execution_id, name=name).fetchone()
    if row is None:
        return None
    number, payload = row
    run_query(connection, "event_received", number=number, run=run, path=path, now=now)
    return payload
