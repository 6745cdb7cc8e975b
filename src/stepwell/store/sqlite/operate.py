"""What people do to executions: pause, resume, wake, and begin a new run."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from typing import Final, TypeAlias

import msgspec

from stepwell.store.keeping import Kept, RecordedStep, kept_steps
from stepwell.store.records import NewRun, Standing, Taken
from stepwell.store.sqlite.writer import run_query
from stepwell.types import TERMINAL

_Allows: TypeAlias = Callable[[str], bool]
_BAD_ENDS: Final = frozenset({"failed", "cancelled", "aborted"})
_NOTHING: Final = Kept([], [])


def standing(connection: sqlite3.Connection, execution_id: str) -> Standing | None:
    """What an operation has to know before it is decided on."""
    row = run_query(connection, "execution_standing", id=execution_id).fetchone()
    if row is None:
        return None
    workflow, status, run = row
    waits = run_query(connection, "steps_waiting", id=execution_id, run=run).fetchall()
    return Standing(execution_id, workflow, status, run, waits)


def pause(connection: sqlite3.Connection, execution_id: str) -> Taken | None:
    """Start nothing new. See `Store.pause`."""
    return _signal(connection, execution_id, "execution_pause", lambda status: status not in {*TERMINAL, "paused"})


def resume(connection: sqlite3.Connection, execution_id: str, now: int) -> Taken | None:
    """Let a paused execution go on. See `Store.resume`."""
    return _signal(connection, execution_id, "execution_resume", lambda status: status == "paused", now=now)


def wake(
    connection: sqlite3.Connection, execution_id: str, run: int, waits: Collection[tuple[str, int]], now: int
) -> Taken | None:
    """End these waits. See `Store.wake`."""
    row = run_query(connection, "execution_state", id=execution_id).fetchone()
    if row is None:
        return None
    status, owner, current_run = row
    wanted = msgspec.json.encode(list(waits)).decode()
    if current_run != run:
        return Taken(execution_id, False, status, owner)
    ended = run_query(connection, "steps_wake", id=execution_id, run=run, waits=wanted, now=now).rowcount
    if not ended:
        # Sent before, or by somebody else at the same time: then the answer is the same.
        woken = run_query(connection, "steps_woken", id=execution_id, run=run, waits=wanted).fetchone() is not None
        return Taken(execution_id, woken, status, owner)
    _tell(connection, owner)
    run_query(connection, "execution_wake", id=execution_id, now=now)
    return Taken(execution_id, True, status, owner)


def restart(
    connection: sqlite3.Connection,
    execution_id: str,
    expected_run: int,
    request: str,
    from_step: str | None,
    input: str | None,
    now: int,
) -> NewRun | None:
    """Begin a new run of a new generation. See `Store.restart`."""
    return _begin(connection, execution_id, expected_run, request, now, generations=1, path=from_step, input=input)


def retry(
    connection: sqlite3.Connection, execution_id: str, expected_run: int, request: str, now: int
) -> NewRun | None:
    """Begin a new run that keeps every result. See `Store.retry`."""
    return _begin(connection, execution_id, expected_run, request, now, generations=0)


def fork(
    connection: sqlite3.Connection,
    execution_id: str,
    new_id: str,
    from_step: str | None,
    input: str | None,
    now: int,
) -> NewRun | None:
    """Make a new execution of what this one has done. See `Store.fork`."""
    row = run_query(connection, "execution_state", id=execution_id).fetchone()
    if row is None:
        return None
    status, owner, run = row
    if run_query(connection, "execution_state", id=new_id).fetchone() is not None:
        return NewRun(new_id, True, status, owner, 1)
    kept = _NOTHING
    if from_step is not None:
        steps = _recorded(connection, execution_id, run)
        before = _step_at(steps, from_step)
        if before is None:
            return NewRun(new_id, False, status, owner, 1, unknown_step=True)
        kept = kept_steps(steps, before, ended_badly=status in _BAD_ENDS)
    run_query(connection, "execution_fork", id=execution_id, new_id=new_id, now=now)
    run_query(connection, "tags_copy", id=execution_id, new_id=new_id, now=now)
    _fill(connection, execution_id, run, new_id, 1, kept, input, None)
    return NewRun(new_id, True, status, owner, 1)


def _begin(
    connection: sqlite3.Connection,
    execution_id: str,
    expected_run: int,
    request: str,
    now: int,
    *,
    generations: int,
    path: str | None = None,
    input: str | None = None,
) -> NewRun | None:
    row = run_query(connection, "execution_state", id=execution_id).fetchone()
    if row is None:
        return None
    status, owner, run = row
    retries = not generations
    if run != expected_run:
        begun = run_query(connection, "run_request", id=execution_id, run=expected_run + 1).fetchone()
        return NewRun(execution_id, begun == (request,), status, owner, run)
    if retries and status not in _BAD_ENDS:
        return NewRun(execution_id, False, status, owner, run)
    kept = _NOTHING
    if retries or path is not None:
        steps = _recorded(connection, execution_id, run)
        before = None if path is None else _step_at(steps, path)
        if before is None and not retries:
            return NewRun(execution_id, False, status, owner, run, unknown_step=True)
        kept = kept_steps(steps, before, ended_badly=status in _BAD_ENDS)
    if status not in TERMINAL:
        _end_run(connection, execution_id, run, owner, now)
    run_query(connection, "run_end", id=execution_id, run=run)
    _fill(connection, execution_id, run, execution_id, run + 1, kept, input, request)
    run_query(connection, "execution_new_run", id=execution_id, generations=generations, now=now)
    run_query(connection, "children_adopt", ids=_json(kept.children), run=run + 1)
    run_query(connection, "orphaning", id=execution_id)
    return NewRun(execution_id, True, status, owner, run + 1)


def _end_run(connection: sqlite3.Connection, execution_id: str, run: int, owner: str | None, now: int) -> None:
    """A run that lives is cancelled before the next one begins."""
    if owner is not None:
        run_query(connection, "worker_raise_fence", worker_id=owner)
    run_query(connection, "execution_cancel", id=execution_id, reason="restarted", now=now)
    run_query(connection, "steps_cancel_open", id=execution_id, run=run, now=now)


def _fill(
    connection: sqlite3.Connection,
    execution_id: str,
    run: int,
    to_id: str,
    to_run: int,
    kept: Kept,
    input: str | None,
    request: str | None,
) -> None:
    """Write the payloads and the kept steps of a new run."""
    place = {"id": execution_id, "run": run, "to_id": to_id, "to_run": to_run}
    run_query(connection, "run_insert", **place, input=input, request=request)
    if kept.numbers:
        numbers = _json(kept.numbers)
        run_query(connection, "steps_copy", to_id=to_id, to_run=to_run, numbers=numbers)
        run_query(connection, "attempts_copy", to_id=to_id, to_run=to_run, numbers=numbers)


def _recorded(connection: sqlite3.Connection, execution_id: str, run: int) -> list[RecordedStep]:
    return [RecordedStep(*row) for row in run_query(connection, "steps_recorded", id=execution_id, run=run)]


def _step_at(steps: list[RecordedStep], path: str) -> RecordedStep | None:
    return next((step for step in steps if step.path == path), None)


def _signal(
    connection: sqlite3.Connection, execution_id: str, name: str, allowed: _Allows, **parameters: object
) -> Taken | None:
    """Change the status under its owner, and have the owner look at it."""
    row = run_query(connection, "execution_state", id=execution_id).fetchone()
    if row is None:
        return None
    status, owner, _ = row
    if not allowed(status):
        return Taken(execution_id, False, status, owner)
    _tell(connection, owner)
    run_query(connection, name, id=execution_id, **parameters)
    return Taken(execution_id, True, status, owner)


def _tell(connection: sqlite3.Connection, owner: str | None) -> None:
    """The raised fence makes the owner compare what it owns, which shows it the raised signal."""
    if owner is not None:
        run_query(connection, "worker_raise_fence", worker_id=owner)


def _json(values: Collection[object]) -> str:
    return msgspec.json.encode(list(values)).decode()
