"""`Store.apply` on SQLite: check the fence, write each kind with one `executemany`, answer each transition.

The order of writing is not the order of the batch, but for each execution it has the same effect: new executions and events
come first, then ended steps (a step row never changes once it has ended, so what came before it in the batch does not touch
it) and what was emitted (a table that no other transition touches), then everything else in layers, the n-th layer
holding the n-th other transition of each execution.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import astuple

from stepwell.errors import SerializationError
from stepwell.store.records import Applied
from stepwell.store.sqlite import answering, events, inserts, owner_writes, streams
from stepwell.store.sqlite.connection import DATA_ERRORS
from stepwell.store.sqlite.owner_writes import NotOwnedError
from stepwell.store.sqlite.ownership import Ownership
from stepwell.store.sqlite.writer import Writer, run_query
from stepwell.store.transitions import (
    ClientTransition,
    Emitted,
    EventSent,
    Finished,
    OwnerTransition,
    Parked,
    Refused,
    Released,
    StepFinished,
    Transition,
    Triggered,
    TriggeredMany,
    Verdict,
)

_NEW: Final = (Triggered, TriggeredMany)
_GIVES_UP: Final = (Finished, Parked, Released)
_TRIED: Final = ("run", "transaction")
"""Kinds of steps that have attempts."""


class _Written(Struct, frozen=True):
    verdicts: list[Verdict]
    refused: Collection[tuple[str, int]]
    fence: int | None
    woken: bool


def apply(writer: Writer, batch: Sequence[Transition], worker_id: str | None, fence: int) -> Applied:
    """Write the batch; see `Store.apply`."""
    return _Application(writer, worker_id, fence).apply(batch)


def write_for_clients(connection: sqlite3.Connection, batch: Sequence[ClientTransition]) -> list[Verdict]:
    """Write client transitions in a transaction of somebody else."""
    plan = _Sorted(batch, None)
    plan.write_for_clients(connection, None)
    return plan.verdicts


class _Application:
    """One call of `apply`: one transaction, or several when a data error has to be cornered."""

    def __init__(self, writer: Writer, worker_id: str | None, fence: int) -> None:
        self._writer = writer
        self._worker_id = worker_id
        self._known_fence = fence
        self._fence: int | None = fence
        self._check_rows = False
        self._woken = False
        self._refused: set[tuple[str, int]] = set()

    def apply(self, batch: Sequence[Transition]) -> Applied:
        return Applied(self._send(batch), self._fence, self._woken)

    def _send(self, batch: Sequence[Transition]) -> list[Verdict]:
        try:
            written = self._writer.transact(lambda connection: self._write(connection, batch))
        except NotOwnedError:
            if self._check_rows:
                raise
            self._check_rows = True
            return self._send(batch)
        except DATA_ERRORS as error:
            if len(batch) == 1:
                return [cannot_store(batch[0], error)]
            middle = len(batch) // 2
            return self._send(batch[:middle]) + self._send(batch[middle:])
        self._refused.update(written.refused)
        self._fence = written.fence
        self._woken |= written.woken
        return written.verdicts

    def _write(self, connection: sqlite3.Connection, batch: Sequence[Transition]) -> _Written:
        fence = self._read_fence(connection)
        ownership: Ownership | None = None
        if fence is None or fence != self._known_fence or self._check_rows or self._refused:
            alive = self._worker_id if fence is not None else None
            ownership = Ownership.read(connection, alive, batch, self._refused)
        plan = _Sorted(batch, ownership)
        plan.write_for_clients(connection, self._worker_id if fence is not None else None)
        owner_writes.write_steps(connection, plan.steps, plan.failed, self._worker_id)
        if plan.emitted:
            streams.append(connection, plan.emitted)
        woken = False
        for layer in plan.layers:
            for kind, transitions in layer.many.items():
                woken |= bool(owner_writes.WRITERS[kind](connection, transitions, self._worker_id))
            for index, transition in layer.singly:
                verdict = answering.write(connection, transition, self._worker_id)
                if isinstance(verdict, answering.Awake):
                    woken = True
                else:
                    plan.verdicts[index] = verdict
        return _Written(plan.verdicts, ownership.refused if ownership is not None else (), fence, woken)

    def _read_fence(self, connection: sqlite3.Connection) -> int | None:
        if self._worker_id is None:
            return None
        row = run_query(connection, "worker_fence", worker_id=self._worker_id).fetchone()
        return None if row is None else row[0]


class _Layer:
    """At most one transition of each execution: by kinds, and those that are answered one by one."""

    __slots__ = ("many", "singly")

    def __init__(self) -> None:
        self.many: dict[type[OwnerTransition], list[OwnerTransition]] = {}
        self.singly: list[tuple[int, OwnerTransition]] = []


class _Sorted:
    """A batch by kinds, without what is refused."""

    def __init__(self, batch: Sequence[Transition], ownership: Ownership | None) -> None:
        self.verdicts: list[Verdict] = [None] * len(batch)
        self.new: list[tuple[int, Triggered | TriggeredMany]] = []
        self.events: list[tuple[int, EventSent]] = []
        self.steps: list[tuple[object, ...]] = []
        self.failed: list[StepFinished] = []
        self.emitted: list[Emitted] = []
        self.layers: list[_Layer] = []
        self._depth: dict[str, int] = {}
        self._given_up: set[str] = set()
        for index, transition in enumerate(batch):
            # Most of a batch are ended steps: they come first, and fast.
            if isinstance(transition, StepFinished):
                if ownership is None or self._admit(index, transition, ownership):
                    self._add_ended(transition)
            elif isinstance(transition, _NEW):
                self.new.append((index, transition))
            elif isinstance(transition, EventSent):
                self.events.append((index, transition))
            elif ownership is None or self._admit(index, transition, ownership):
                self._add(index, transition)

    def write_for_clients(self, connection: sqlite3.Connection, worker_id: str | None) -> None:
        """Write what needs no owner; `worker_id` is the live worker that may start executions directly."""
        inserts.write(connection, self.new, worker_id, self.verdicts)
        for index, event in self.events:
            self.verdicts[index] = events.send(connection, event)

    def _admit(self, index: int, transition: OwnerTransition, ownership: Ownership) -> bool:
        judgement = ownership.judge(transition)
        if judgement.refused:
            self.verdicts[index] = Refused(transition.execution_id)
        return judgement.write

    def _add_ended(self, transition: StepFinished) -> None:
        if transition.execution_id in self._given_up:
            raise NotOwnedError
        self.steps.append(astuple(transition))
        if transition.status == "failed" and transition.kind in _TRIED:
            self.failed.append(transition)

    def _add(self, index: int, transition: OwnerTransition) -> None:
        id = transition.execution_id
        if id in self._given_up:
            raise NotOwnedError
        if isinstance(transition, Emitted):
            self.emitted.append(transition)
            return
        if isinstance(transition, _GIVES_UP):
            self._given_up.add(id)
        depth = self._depth.get(id, 0)
        self._depth[id] = depth + 1
        if depth == len(self.layers):
            self.layers.append(_Layer())
        if answering.is_answered(transition):
            self.layers[depth].singly.append((index, transition))
        else:
            self.layers[depth].many.setdefault(type(transition), []).append(transition)


def cannot_store(transition: Transition, error: Exception) -> SerializationError:
    """The error of a transition with a value that the database does not take."""
    match transition:
        case Triggered(execution):
            what = f"execution {execution.id!r}"
        case TriggeredMany(executions):
            what = f"{len(executions)} executions"
        case _:
            what = f"a {type(transition).__name__} of execution {transition.execution_id!r}"
    return SerializationError(f"The database cannot store {what}: {error}.")
