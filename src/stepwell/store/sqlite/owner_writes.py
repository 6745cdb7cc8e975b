"""One function for each kind of owner transition: many of a kind, at most one for each execution."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from stepwell.store.sqlite.connection import query
from stepwell.store.transitions import (
    Failing,
    Finished,
    Idle,
    Parked,
    Progressed,
    Released,
    Resumed,
    StepFinished,
    StepFlagged,
    StepRetrying,
    StepStarted,
    StepWaiting,
)


class NotOwnedError(Exception):
    """The batch was trusted and touches an execution that its worker does not own: check row by row."""


_Rows: TypeAlias = Sequence[tuple[object, ...]]
_NamedRows: TypeAlias = Sequence[dict[str, object]]
_Write: TypeAlias = Callable[[sqlite3.Connection, Sequence[Any], str | None], "bool | None"]
"""True: an execution that waits outside of memory has become claimable."""


def write_steps(
    connection: sqlite3.Connection, steps: _Rows, failed: Sequence[StepFinished], worker_id: str | None
) -> None:
    """Write ended steps, given as tuples of StepFinished, and the attempts of those that failed."""
    if steps:
        connection.executemany(query("step_finished"), steps)
    if failed:
        attempts = [
            (t.execution_id, t.run, t.path, t.attempt, t.error, t.started_at, t.finished_at, worker_id) for t in failed
        ]
        connection.executemany(query("attempt_insert"), attempts)


def _step_finished(connection: sqlite3.Connection, transitions: Sequence[Any], worker_id: str | None) -> None:
    raise AssertionError("ended steps are written by write_steps")


def _step_started(connection: sqlite3.Connection, started: Sequence[StepStarted], worker_id: str | None) -> None:
    rows = [(t.execution_id, t.epoch, t.run, t.path, t.seq, t.kind, t.attempt, t.input, t.started_at) for t in started]
    connection.executemany(query("step_started"), rows)


def _step_waiting(connection: sqlite3.Connection, waiting: Sequence[StepWaiting], worker_id: str | None) -> None:
    rows = [
        (t.execution_id, t.epoch, t.run, t.path, t.seq, t.kind, t.status, t.input, t.started_at, t.wake_at)
        for t in waiting
    ]
    connection.executemany(query("step_waiting"), rows)
    idle = [(t.status, t.wake_at, t.path, t.execution_id, worker_id, t.epoch) for t in waiting if t.idle]
    _update_owned(connection, "execution_idle", idle)


def _step_retrying(connection: sqlite3.Connection, retrying: Sequence[StepRetrying], worker_id: str | None) -> None:
    attempts = [
        (t.execution_id, t.run, t.path, t.attempt, t.error, t.started_at, t.finished_at, worker_id) for t in retrying
    ]
    connection.executemany(query("attempt_insert"), attempts)
    rows = [
        (t.execution_id, t.epoch, t.run, t.path, t.seq, t.kind, t.attempt, t.input, t.error, t.started_at, t.wake_at)
        for t in retrying
    ]
    connection.executemany(query("step_retrying"), rows)
    parents = [{"id": t.execution_id, "run": t.run, "path": t.path} for t in retrying]
    connection.executemany(query("steps_reopen_cancelled"), parents)
    idle = [("sleeping", t.wake_at, t.path, t.execution_id, worker_id, t.epoch) for t in retrying if t.idle]
    _update_owned(connection, "execution_idle", idle)


def _step_flagged(connection: sqlite3.Connection, flagged: Sequence[StepFlagged], worker_id: str | None) -> None:
    connection.executemany(query("step_flagged"), [(t.flag, t.execution_id, t.run, t.path) for t in flagged])


def _progressed(connection: sqlite3.Connection, progressed: Sequence[Progressed], worker_id: str | None) -> None:
    _update_owned(connection, "progressed", [(t.execution_id, worker_id, t.epoch) for t in progressed])


def _resumed(connection: sqlite3.Connection, resumed: Sequence[Resumed], worker_id: str | None) -> None:
    _update_owned(connection, "resumed", [(t.execution_id, worker_id, t.epoch) for t in resumed])


def _idle(connection: sqlite3.Connection, idle: Sequence[Idle], worker_id: str | None) -> None:
    rows = [(t.status, t.wake_at, t.waiting_for, t.execution_id, worker_id, t.epoch) for t in idle]
    _update_owned(connection, "execution_idle", rows)


def _parked(connection: sqlite3.Connection, parked: Sequence[Parked], worker_id: str | None) -> None:
    _update_owned(connection, "parked", [park_row(t, worker_id) for t in parked])


def _released(connection: sqlite3.Connection, released: Sequence[Released], worker_id: str | None) -> None:
    _update_owned(connection, "parked", [park_row(t, worker_id) for t in released])


def _failing(connection: sqlite3.Connection, failing: Sequence[Failing], worker_id: str | None) -> None:
    _update_owned(connection, "failing", [(t.execution_id, worker_id, t.epoch) for t in failing])
    connection.executemany(query("payload_failing"), [(t.error, t.execution_id, t.run) for t in failing])


def _finished(connection: sqlite3.Connection, finished: Sequence[Finished], worker_id: str | None) -> bool:
    rows = [(t.status, t.reason, t.finished_at, t.execution_id, worker_id, t.epoch) for t in finished]
    _update_owned(connection, "finished", rows)
    connection.executemany(query("payload_finished"), [(t.output, t.error, t.execution_id, t.run) for t in finished])
    open_steps = [{"now": t.finished_at, "id": t.execution_id, "run": t.run} for t in finished]
    connection.executemany(query("steps_cancel_open"), open_steps)
    bad = [{"id": t.execution_id} for t in finished if t.status != "completed"]
    if bad:
        connection.executemany(query("orphaning"), bad)
    ended = [{"now": t.finished_at, "id": t.execution_id} for t in finished]
    return connection.executemany(query("ended_wake"), ended).rowcount > 0


def park_row(leaving: Parked | Released, worker_id: str | None) -> dict[str, object]:
    """The parameters of `parked.sql`."""
    parks = isinstance(leaving, Parked)
    return {
        "status": leaving.status if parks else "queued",
        "signal": leaving.signal if parks else None,
        "wake_at": leaving.wake_at,
        "waiting_for": leaving.waiting_for,
        "id": leaving.execution_id,
        "owner": worker_id,
        "epoch": leaving.epoch,
    }


def _update_owned(connection: sqlite3.Connection, name: str, rows: _Rows | _NamedRows) -> None:
    if rows and connection.executemany(query(name), rows).rowcount != len(rows):
        raise NotOwnedError


WRITERS: Final[dict[type, _Write]] = {
    StepStarted: _step_started,
    StepWaiting: _step_waiting,
    StepRetrying: _step_retrying,
    StepFinished: _step_finished,
    StepFlagged: _step_flagged,
    Progressed: _progressed,
    Resumed: _resumed,
    Idle: _idle,
    Parked: _parked,
    Released: _released,
    Failing: _failing,
    Finished: _finished,
}
