"""Who may write what, decided row by row: for batches sent after something was taken from their worker."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from stepwell.store.sqlite.connection import query
from stepwell.store.transitions import (
    Finished,
    OwnerTransition,
    Parked,
    Released,
    Transition,
    Triggered,
    TriggeredMany,
)


class Judgement(NamedTuple):
    """What to do with a transition."""

    write: bool
    refused: bool


_WRITE: Final = Judgement(write=True, refused=False)
_DONE_BEFORE: Final = Judgement(write=False, refused=False)
_REFUSE: Final = Judgement(write=False, refused=True)
_GIVEN_BACK: Final = frozenset({"queued", "sleeping", "listening", "paused"})
"""What an execution can be that its owner has parked or released."""


class _Row(NamedTuple):
    owner: str | None
    epoch: int
    status: str


class Ownership:
    """What the worker owns, followed through the batch.

    A live worker is the only one who can give up an execution without raising its epoch. So an execution without owner
    at the transition's own epoch, in the state that the batch would leave it in, has met this batch before: it is
    answered as it was then.
    """

    def __init__(self, worker_id: str | None, rows: dict[str, _Row], refused: Iterable[tuple[str, int]]) -> None:
        self.refused = set(refused)
        self._owned = {(id, row.epoch) for id, row in rows.items() if worker_id is not None and row.owner == worker_id}
        self._rows = rows if worker_id is not None else {}
        self._worker_id = worker_id
        self._done: set[tuple[str, int]] = set()

    @classmethod
    def read(
        cls,
        connection: sqlite3.Connection,
        worker_id: str | None,
        batch: Sequence[Transition],
        refused: Iterable[tuple[str, int]],
    ) -> Ownership:
        """Read the executions of the batch. `worker_id` is None when the worker is gone."""
        touched = {
            each.execution.id if isinstance(each, Triggered) else each.execution_id
            for each in batch
            if not isinstance(each, TriggeredMany)
        }
        ids = msgspec.json.encode(list(touched)).decode()
        found = connection.execute(query("ownership"), {"ids": ids}).fetchall()
        rows = {id: _Row(owner, epoch, status) for id, owner, epoch, status in found}
        ownership = cls(worker_id, rows, refused)
        for transition in batch:
            ownership._prepare(transition)
        return ownership

    def judge(self, transition: OwnerTransition) -> Judgement:
        """Decide one transition; the order of calls is the order of the batch."""
        claim = (transition.execution_id, transition.epoch)
        if claim in self.refused:
            return _REFUSE
        if claim in self._done:
            return _DONE_BEFORE
        if claim not in self._owned:
            # Of this claim only: the same worker may have claimed it again, and both stand in one batch.
            self.refused.add(claim)
            return _REFUSE
        if isinstance(transition, Finished | Parked | Released):
            self._owned.discard(claim)
        return _WRITE

    def _prepare(self, transition: Transition) -> None:
        match transition:
            case Triggered(execution):
                if self._worker_id is not None and execution.owner == self._worker_id:
                    self._start(execution.id)
            case Finished(status=status):
                self._recognise(transition, {status})
            case Parked() | Released():
                # Since then others may have paused, resumed or woken it, none of which raises the epoch.
                self._recognise(transition, _GIVEN_BACK)
            case _:
                pass

    def _start(self, id: str) -> None:
        if id not in self._rows:
            self._owned.add((id, 1))

    def _recognise(self, transition: OwnerTransition, leaves: Collection[str]) -> None:
        row = self._rows.get(transition.execution_id)
        if row is not None and row.owner is None and row.epoch == transition.epoch and row.status in leaves:
            self._done.add((transition.execution_id, transition.epoch))
