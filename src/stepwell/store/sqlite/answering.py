"""Owner transitions that are answered: they look at something else before it is decided what they write."""

from __future__ import annotations

import sqlite3

from stepwell.store.sqlite import events, inserts
from stepwell.store.sqlite.connection import query
from stepwell.store.sqlite.owner_writes import NotOwnedError, park_row
from stepwell.store.sqlite.writer import run_query
from stepwell.store.transitions import (
    ChildAwaited,
    ChildStarted,
    Exists,
    Listened,
    Over,
    OwnerTransition,
    Parked,
    Received,
    Unknown,
    Verdict,
)
from stepwell.types import TERMINAL


class Awake:
    """The execution is written as parked, but what it waits for is there: it is claimable at once."""


def is_answered(transition: OwnerTransition) -> bool:
    """Whether the transition is written by this module."""
    if isinstance(transition, Parked):
        return transition.status == "listening"
    return isinstance(transition, Listened | ChildStarted | ChildAwaited)


def write(connection: sqlite3.Connection, transition: OwnerTransition, worker_id: str | None) -> Verdict | Awake:
    """Write one of them."""
    match transition:
        case Listened():
            return _listen(connection, transition, worker_id)
        case ChildStarted():
            return _start_child(connection, transition, worker_id)
        case ChildAwaited():
            return _await(connection, transition, worker_id)
        case Parked():
            return _park(connection, transition, worker_id)
        case _:
            raise AssertionError(f"{transition!r} is not answered")


def _listen(connection: sqlite3.Connection, t: Listened, worker_id: str | None) -> Received | None:
    ended = run_query(connection, "step_ended", id=t.execution_id, run=t.run, path=t.path).fetchone()
    if ended is not None:
        status, output = ended
        return Received(output) if status == "completed" else None
    payload = events.take(connection, t.execution_id, t.event, t.run, t.path, t.now) if t.take else None
    place = (t.execution_id, t.epoch, t.run, t.path, t.seq, "listen")
    if payload is not None:
        row = (*place, "completed", 1, t.input, payload, None, t.started_at, t.now, None)
        connection.execute(query("step_finished"), row)
        _progressed(connection, t)
        return Received(payload)
    if t.error is not None:
        row = (*place, "failed", 1, t.input, None, t.error, t.started_at, t.now, None)
        connection.execute(query("step_finished"), row)
        _progressed(connection, t)
        return None
    _wait(connection, t, "listen", t.event, t.wake_at, worker_id)
    return None


def _start_child(connection: sqlite3.Connection, t: ChildStarted, worker_id: str | None) -> Exists | Over | None:
    child = t.child
    found = run_query(connection, "child_found", id=child.id).fetchone()
    if found is None:
        inserts.insert(connection, (child,), worker_id)
    elif found != (child.parent_id, child.parent_path, child.workflow):
        return Exists(child.id, same=False)
    if not t.waits:
        place = (t.execution_id, t.epoch, t.run, t.path, t.seq, t.kind)
        row = (*place, "completed", 1, t.input, f'"{child.id}"', None, t.started_at, t.started_at, None)
        connection.execute(query("step_finished"), row)
        connection.execute(query("step_awaits"), (child.id, t.execution_id, t.run, t.path))
        _progressed(connection, t)
        return None
    if found is not None and (over := _over(connection, child.id)) is not None:
        return over
    _wait(connection, t, t.kind, child.id, None, worker_id)
    return None


def _await(connection: sqlite3.Connection, t: ChildAwaited, worker_id: str | None) -> Over | Unknown | None:
    if run_query(connection, "execution_state", id=t.awaits).fetchone() is None:
        return Unknown(t.awaits)
    over = _over(connection, t.awaits)
    if over is None:
        _wait(connection, t, t.kind, t.awaits, None, worker_id)
    return over


def _over(connection: sqlite3.Connection, execution_id: str) -> Over | None:
    """How an execution has ended; None while it lives."""
    status, reason, output, error = run_query(connection, "execution_over", id=execution_id).fetchone()
    if status not in TERMINAL:
        return None
    return Over(execution_id, status, {"completed": output, "failed": error}.get(status, reason))


def _wait(
    connection: sqlite3.Connection,
    t: Listened | ChildStarted | ChildAwaited,
    kind: str,
    awaits: str,
    wake_at: int | None,
    worker_id: str | None,
) -> None:
    place = (t.execution_id, t.epoch, t.run, t.path, t.seq, kind)
    if connection.execute(query("step_listening"), (*place, t.input, t.started_at, wake_at, awaits)).rowcount:
        _progressed(connection, t)
    if t.idle:
        row = ("listening", wake_at, t.path, t.execution_id, worker_id, t.epoch)
        _update_owned(connection, "execution_idle", row)


def _progressed(connection: sqlite3.Connection, t: Listened | ChildStarted | ChildAwaited) -> None:
    """Something is recorded that was not there: crashes in a row are counted anew."""
    run_query(connection, "crashes_end", id=t.execution_id)


def _park(connection: sqlite3.Connection, t: Parked, worker_id: str | None) -> Awake | None:
    _update_owned(connection, "parked", park_row(t, worker_id))
    woken = run_query(connection, "parked_awake", id=t.execution_id).rowcount
    return Awake() if woken else None


def _update_owned(connection: sqlite3.Connection, name: str, row: tuple[object, ...] | dict[str, object]) -> None:
    if connection.execute(query(name), row).rowcount != 1:
        raise NotOwnedError
