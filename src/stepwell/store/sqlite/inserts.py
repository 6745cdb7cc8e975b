"""New executions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from stepwell.store.sqlite.connection import query
from stepwell.store.transitions import Exists, NewExecution, Triggered, TriggeredMany, Verdict


class _Taken(NamedTuple):
    request: str | None
    workflow: str
    input: str | None


def write(
    connection: sqlite3.Connection,
    new: Sequence[tuple[int, Triggered | TriggeredMany]],
    worker_id: str | None,
    verdicts: list[Verdict],
) -> None:
    """Insert what was triggered. `worker_id` is the live worker that may start executions directly.

    An id that the client has made never collides, so the plain case needs no look at what is there: a row under such
    an id is the trace of an earlier sending.
    """
    plain: list[NewExecution] = []
    for index, transition in new:
        match transition:
            case Triggered(NewExecution(request=None) as execution):
                plain.append(execution)
            case Triggered(execution):
                verdicts[index] = _insert_all(connection, (execution,), worker_id)
            case TriggeredMany(executions):
                verdicts[index] = _insert_all(connection, executions, worker_id)
    if plain:
        insert(connection, plain, worker_id)


def _insert_all(
    connection: sqlite3.Connection, executions: Sequence[NewExecution], worker_id: str | None
) -> Exists | None:
    ids = msgspec.json.encode([execution.id for execution in executions]).decode()
    found = connection.execute(query("execution_taken"), {"ids": ids}).fetchall()
    stored = {id: _Taken(request, workflow, input) for id, request, workflow, input in found}
    taken = dict(stored)
    repeated = False
    for execution in executions:
        row = taken.get(execution.id)
        if row is None:
            taken[execution.id] = _Taken(execution.request, execution.workflow, execution.input)
        elif _is_repeat(execution, row) and execution.id in stored:
            repeated = True
        else:
            return Exists(execution.id, same=_is_same(execution, row))
    if not repeated:
        insert(connection, executions, worker_id)
    return None


def _is_same(execution: NewExecution, row: _Taken) -> bool:
    return row.workflow == execution.workflow and row.input == execution.input


def _is_repeat(execution: NewExecution, row: _Taken) -> bool:
    return row.request == execution.request if execution.request is not None else _is_same(execution, row)


def insert(connection: sqlite3.Connection, executions: Iterable[NewExecution], worker_id: str | None) -> None:
    executions = list(executions)
    connection.executemany(query("execution_insert"), [_row(each, worker_id) for each in executions])
    connection.executemany(query("payload_insert"), [(each.id, each.input) for each in executions])
    tags = [(tag, each.created_at, each.id) for each in executions for tag in each.tags]
    if tags:
        connection.executemany(query("tag_insert"), tags)


def _row(new: NewExecution, worker_id: str | None) -> tuple[object, ...]:
    direct = new.owner is not None
    # The worker that meant to start it is gone: others must find it. Its epoch is used up all the same.
    started = direct and new.owner == worker_id
    return (
        new.id,
        new.workflow,
        "running" if started else "queued",
        new.owner if started else None,
        1 if direct else 0,
        None if started else (new.wake_at if new.wake_at is not None else new.created_at),
        new.priority,
        new.version,
        new.parent_id,
        new.parent_run,
        new.parent_path,
        new.attached,
        new.retention,
        new.options,
        new.timeout,
        new.deadline_at if started or not direct else None,
        new.request,
        new.created_at,
        new.created_at if started else None,
    )
