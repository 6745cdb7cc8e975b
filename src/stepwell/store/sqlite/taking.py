"""Transactions about workers, and those that take executions away from one."""

from __future__ import annotations

import sqlite3

from msgspec.structs import asdict

from stepwell.store.records import Owned, Taken, WorkerRow
from stepwell.store.sqlite.lease import renew_lease
from stepwell.store.sqlite.writer import run_query
from stepwell.types import TERMINAL


def register(connection: sqlite3.Connection, worker: WorkerRow, lease_until: int) -> None:
    """Insert the worker's row; a row that is there only gets a new lease."""
    fields = asdict(worker)
    del fields["fence"]
    run_query(connection, "worker_register", **{**fields, "lease_until": lease_until})


def deregister(connection: sqlite3.Connection, worker_id: str, now: int) -> None:
    """Delete the row and give back what it owned, not counted as crashes."""
    run_query(connection, "executions_give_back", worker_id=worker_id, now=now, crashed=0)
    run_query(connection, "worker_delete", worker_id=worker_id)


def workers(connection: sqlite3.Connection) -> list[WorkerRow]:
    """All registered workers, oldest first."""
    return [WorkerRow(*row) for row in run_query(connection, "workers")]


def owned(connection: sqlite3.Connection, worker_id: str) -> Owned:
    """The fence, then what the worker owns."""
    fence = run_query(connection, "worker_fence", worker_id=worker_id).fetchone()
    executions = [(id, epoch, signal) for id, epoch, signal in run_query(connection, "owned", worker_id=worker_id)]
    return Owned(None if fence is None else fence[0], executions)


def reap(
    connection: sqlite3.Connection,
    reaper_id: str,
    worker_id: str,
    *,
    dead: bool,
    crashed: bool,
    lease_until: int,
    uptime: int,
    now: int,
) -> int:
    """Take everything from a worker that is dead or whose lease ran out; how many executions went back.

    A worker of another boot of this machine is dead whatever its lease says.
    """
    if not renew_lease(connection, reaper_id, lease_until):
        return 0
    own_boot_id, _ = run_query(connection, "worker_lease", worker_id=reaper_id).fetchone()
    row = run_query(connection, "worker_lease", worker_id=worker_id).fetchone()
    if row is None:
        return 0
    boot_id, worker_lease_until = row
    if not dead and boot_id == own_boot_id and worker_lease_until > uptime:
        return 0
    mark = int(crashed)
    taken = run_query(connection, "executions_give_back", worker_id=worker_id, now=now, crashed=mark).rowcount
    run_query(connection, "worker_delete", worker_id=worker_id)
    return taken


def cancel(
    connection: sqlite3.Connection, execution_id: str, reason: str | None, now: int, *, undo: bool = False
) -> Taken | None:
    """Make an execution `cancelled` unless it is terminal; with `undo`, once its undos have run."""
    row = run_query(connection, "execution_state", id=execution_id).fetchone()
    if row is None:
        return None
    status, owner, run = row
    if status in TERMINAL:
        return Taken(execution_id, False, status, owner)
    (ending,) = run_query(connection, "execution_ending", id=execution_id).fetchone()
    if undo and ending is not None:
        return Taken(execution_id, False, status, owner, ending)
    if owner is not None:
        run_query(connection, "worker_raise_fence", worker_id=owner)
    if undo and run_query(connection, "steps_to_undo", id=execution_id, run=run).fetchone() is not None:
        run_query(connection, "execution_undo", id=execution_id, reason=reason, now=now)
        run_query(connection, "steps_cancel_open", id=execution_id, run=run, now=now)
        return Taken(execution_id, True, status, owner, cleans_up=True)
    run_query(connection, "execution_cancel", id=execution_id, reason=reason, now=now)
    run_query(connection, "steps_cancel_open", id=execution_id, run=run, now=now)
    run_query(connection, "ended_wake", id=execution_id, now=now)
    run_query(connection, "orphaning", id=execution_id)
    return Taken(execution_id, True, status, owner, ending)


def cancel_orphans(connection: sqlite3.Connection, now: int, limit: int) -> list[Taken]:
    """Cancel attached children of parents that have ended badly; a child's own children are found the next time."""
    taken: list[Taken] = []
    for child, parent in run_query(connection, "orphans", limit=limit).fetchall():
        one = cancel(connection, child, f"its parent {parent} has ended", now)
        if one is not None:
            taken.append(one)
    run_query(connection, "orphaning_over")
    return taken
