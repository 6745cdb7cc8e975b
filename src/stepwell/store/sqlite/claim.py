"""Taking runnable executions, with all that a worker needs to continue them."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import msgspec

from stepwell.store.records import Claimed, ClaimResult, HistoryRow
from stepwell.store.sqlite.writer import Writer, run_query


class _Found(NamedTuple):
    ids: list[str]
    more: bool
    next_at: int | None


def claim(
    writer: Writer, worker_id: str, workflows: Collection[str], limit: int, *, suspects: int, now: int
) -> ClaimResult:
    """See `Store.claim`. Looks before it takes the lock, so an idle worker never makes a busy one wait."""
    known = sorted(workflows)
    seen = writer.read(lambda connection: _find(connection, known, min(limit, 1), min(suspects, 1), now))
    if not seen.ids:
        return ClaimResult([], seen.more, seen.next_at)
    return writer.transact(lambda connection: _claim(connection, worker_id, known, limit, suspects, now))


def load(connection: sqlite3.Connection, worker_id: str, ids: Collection[str]) -> list[Claimed]:
    """Those of the executions that the worker owns, in the order of `ids`, with their histories."""
    wanted = _json(ids)
    histories: defaultdict[str, list[HistoryRow]] = defaultdict(list)
    for id, *columns in run_query(connection, "history", ids=wanted):
        histories[id].append(HistoryRow._make(columns))
    rows = run_query(connection, "claimed", ids=wanted, worker_id=worker_id)
    return [Claimed(*row, history=histories.get(row[0], []), paused=bool(paused)) for *row, paused in rows]


def _claim(
    connection: sqlite3.Connection, worker_id: str, workflows: list[str], limit: int, suspects: int, now: int
) -> ClaimResult:
    if run_query(connection, "worker_fence", worker_id=worker_id).fetchone() is None:
        # A worker that was reaped must not own anything: nobody would look for it again.
        return ClaimResult([], more=False, next_at=None)
    found = _find(connection, workflows, limit, suspects, now)
    run_query(connection, "claim_take", ids=_json(found.ids), worker_id=worker_id, now=now)
    return ClaimResult(load(connection, worker_id, found.ids), found.more, found.next_at)


def _find(connection: sqlite3.Connection, workflows: list[str], limit: int, suspects: int, now: int) -> _Found:
    """Ids in the order of claiming: suspects, due waits, then the queue by priority and age."""
    levels: list[Any] = run_query(connection, "claim_levels", workflows=_json(workflows), now=now).fetchall()
    next_at: int | None = run_query(connection, "claim_next", workflows=_json(workflows), now=now).fetchone()[0]
    next_times = [at for _, _, at in levels if at is not None]
    if next_at is not None:
        next_times.append(next_at)

    ids = _oldest(connection, "claim_suspects", workflows, min(suspects, limit), now)
    room = limit + 1 - len(ids)
    ids += _oldest(connection, "claim_due", workflows, room, now)
    at_priority: defaultdict[int, list[str]] = defaultdict(list)
    for workflow, priority, _ in levels:
        at_priority[priority].append(workflow)
    for priority, queued in at_priority.items():
        room = limit + 1 - len(ids)
        if room <= 0:
            break
        ids += _oldest(connection, "claim_queue", queued, room, now, priority=priority)
    return _Found(ids[:limit], len(ids) > limit, min(next_times, default=None))


def _oldest(
    connection: sqlite3.Connection, name: str, workflows: Iterable[str], limit: int, now: int, **parameters: object
) -> list[str]:
    if limit <= 0:
        return []
    found: list[tuple[int, str]] = []
    for workflow in workflows:
        found += run_query(connection, name, workflow=workflow, now=now, limit=limit, **parameters)
    found.sort()
    return [id for _, id in found[:limit]]


def _json(values: Collection[str]) -> str:
    return msgspec.json.encode(list(values)).decode()
