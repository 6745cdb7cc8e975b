"""Group commit: transitions wait here while the store is busy, and go together as soon as it is free.

A lone transition pays one commit; a thousand concurrent ones share it. There is no timer: whatever was appended in one turn
of the event loop goes as one batch at the end of the turn, or when the batch before it has been answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

from msgspec import Struct

from stepwell._engine.background import start
from stepwell.errors import StepwellError
from stepwell.store.protocol import Store
from stepwell.store.transitions import OwnerTransition, Refused, Transition, Triggered, TriggeredMany, Verdict

log: Final = logging.getLogger("stepwell.journal")

LONGEST_PAUSE_SECONDS: Final = 2.0
"""How long at most until a database that could not be written is tried again."""
LARGEST_BATCH: Final = 2_000
"""A larger batch would keep the answer of its first transition waiting for its last."""


class Sender(Protocol):
    """Who hears of each verdict on its transitions, whether or not anybody still awaits them."""

    def settled(self, transition: Transition, verdict: Verdict) -> None: ...


_CLIENT: Final = (Triggered, TriggeredMany)


class _Entry(Struct, gc=False):
    """A transition on its way; the garbage collector need not look at it."""

    transition: Transition
    future: asyncio.Future[Verdict] | None
    sender: Sender | None


class Journal:
    """The way of every transition into the store, for one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[_Entry] = []
        self._scheduled = False
        self._writer: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._pause = 0.0
        self._closed = False
        self.worker_id: str | None = None
        self.fence = 0
        self.on_fence: Callable[[int | None], object] | None = None
        self.on_written: Callable[[], object] | None = None

    def append(self, transition: Transition, sender: Sender | None = None) -> asyncio.Future[Verdict]:
        """Queue a transition; the future gives its verdict. Cancelling the future does not withdraw the transition."""
        future: asyncio.Future[Verdict] = self._loop.create_future()
        self._waiting.append(_Entry(transition, future, sender))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._send)
        return future

    def note(self, transition: Transition, sender: Sender | None = None) -> None:
        """Queue a transition whose verdict nobody awaits; it stands before whatever is appended later."""
        self._waiting.append(_Entry(transition, None, sender))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._send)

    def is_busy(self) -> bool:
        """Whether anything has not been answered yet."""
        return bool(self._waiting) or self._writer is not None

    async def close(self) -> None:
        """Write what is queued; what cannot be written now is given up."""
        self._closed = True
        await self.flush()

    def lose_worker(self) -> None:
        """The worker is no more: what its executions wanted to write must never be written under another's name."""
        self.worker_id = None
        self.fence = 0
        lost = [entry for entry in self._waiting if not isinstance(entry.transition, _CLIENT)]
        self._waiting = [entry for entry in self._waiting if isinstance(entry.transition, _CLIENT)]
        for entry in lost:
            transition = cast("OwnerTransition", entry.transition)
            self._answer([entry], [Refused(transition.execution_id)])

    async def flush(self) -> None:
        """Wait until everything that was queued has been answered."""
        while self._waiting or self._writer is not None:
            if self._writer is not None:
                await asyncio.wait([self._writer])
            else:
                await asyncio.sleep(0)

    def _send(self) -> None:
        if self._writer is None:
            self._writer = start(self._write(), name="stepwell-journal")

    async def _write(self) -> None:
        try:
            while self._waiting:
                entries, self._waiting = self._waiting[:LARGEST_BATCH], self._waiting[LARGEST_BATCH:]
                await self._write_batch(entries)
        finally:
            self._writer = None
            self._scheduled = False

    async def _write_batch(self, entries: list[_Entry]) -> None:
        try:
            applied = await self._store.apply([entry.transition for entry in entries], self.worker_id, self.fence)
        except Exception as error:
            await self._not_written(entries, error)
            return
        self._pause = 0.0
        if applied.fence != self.fence and self.worker_id is not None and self.on_fence is not None:
            self.on_fence(applied.fence)
        self._answer(entries, applied.verdicts)
        if self.on_written is not None:
            self.on_written()

    async def _not_written(self, entries: list[_Entry], error: Exception) -> None:
        """The database is full or away: callers are told, while what executions have done waits for its return."""
        clients = [entry for entry in entries if isinstance(entry.transition, _CLIENT)]
        owners = [entry for entry in entries if not isinstance(entry.transition, _CLIENT)]
        self._answer(clients, [error] * len(clients))
        if self._closed:
            self._answer(owners, [error] * len(owners))
            return
        self._waiting[:0] = owners
        self._pause = min(self._pause * 2 or 0.1, LONGEST_PAUSE_SECONDS)
        unexpected = not isinstance(error, StepwellError)
        log.error(
            "%d transitions wait to be written; next try in %.1f s: %s",
            len(owners),
            self._pause,
            error,
            exc_info=error if unexpected else None,
        )
        await asyncio.sleep(self._pause)

    def _answer(self, entries: list[_Entry], verdicts: Sequence[Verdict]) -> None:
        for entry, verdict in zip(entries, verdicts, strict=True):
            if entry.sender is not None:
                entry.sender.settled(entry.transition, verdict)
            future = entry.future
            if future is not None and not future.done():
                future.set_result(verdict)
