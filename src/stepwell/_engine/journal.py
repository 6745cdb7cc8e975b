"""Group commit: transitions wait here while the store is busy, and go together as soon as it is free.

A lone transition pays one commit; a thousand concurrent ones share it. There is no timer: whatever was appended in one turn
of the event loop goes as one batch at the end of the turn, or when the batch before it has been answered.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol, cast

from msgspec import Struct

from stepwell._engine.background import start
from stepwell.errors import StepwellError, StoreUnavailableError
from stepwell.store.protocol import StepTransaction, Store
from stepwell.store.records import Applied, Recorded, RolledBack
from stepwell.store.transitions import (
    EventSent,
    OwnerTransition,
    Refused,
    Transition,
    Triggered,
    TriggeredMany,
    Verdict,
)

log: Final = logging.getLogger("stepwell.journal")

LONGEST_PAUSE_SECONDS: Final = 2.0
"""How long at most until a database that could not be written is tried again."""
LARGEST_BATCH: Final = 2_000
"""A larger batch would keep the answer of its first transition waiting for its last."""


class Sender(Protocol):
    """Who hears of each verdict on its transitions, whether or not anybody still awaits them."""

    def settled(self, transition: Transition, verdict: Verdict) -> None: ...


_CLIENT: Final = (Triggered, TriggeredMany, EventSent)


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
        self._sent: list[_Entry] = []
        self._scheduled = False
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.Context()
        self._pause = 0.0
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False
        self._flushed: list[asyncio.Future[None]] = []
        self.worker_id: str | None = None
        self.fence = 0
        self.on_fence: Callable[[int | None], object] | None = None
        self.on_written: Callable[[], object] | None = None
        self.on_woken: Callable[[], object] | None = None

    def append(self, transition: Transition, sender: Sender | None = None) -> asyncio.Future[Verdict]:
        """Queue a transition; the future gives its verdict. Cancelling the future does not withdraw the transition."""
        future: asyncio.Future[Verdict] = self._loop.create_future()
        self._waiting.append(_Entry(transition, future, sender))
        if not self._scheduled:
            self._schedule()
        return future

    def note(self, transition: Transition, sender: Sender | None = None) -> None:
        """Queue a transition whose verdict nobody awaits; it stands before whatever is appended later."""
        self._waiting.append(_Entry(transition, None, sender))
        if not self._scheduled:
            self._schedule()

    @property
    def takes_async_transactions(self) -> bool:
        """Whether the function of a transaction may be async here."""
        return self._store.takes_async_transactions

    async def transact_step(self, step: StepTransaction) -> Refused | Recorded | RolledBack | None:
        """Run a step's function in the transaction that records it, apart from all batches; see `Store`."""
        if self.worker_id is None:
            return Refused(step.execution_id)
        return await self._store.transact_step(self.worker_id, step)

    def is_busy(self) -> bool:
        """Whether anything has not been answered yet."""
        return bool(self._waiting or self._sent)

    async def flush(self) -> None:
        """Wait until everything that was queued has been answered."""
        while self.is_busy():
            future: asyncio.Future[None] = self._loop.create_future()
            self._flushed.append(future)
            await future

    async def close(self) -> None:
        """Write what is queued; what cannot be written now is given up."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
            self._send_again()
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

    def lose(self, execution_id: str, epoch: int) -> None:
        """The execution was taken away: nothing more of it is sent.

        Under the new fence the store would trust what was queued under the old one.
        """
        lost: list[_Entry] = []
        kept: list[_Entry] = []
        for entry in self._waiting:
            transition = entry.transition
            ours = not isinstance(transition, _CLIENT) and (transition.execution_id, transition.epoch) == (
                execution_id,
                epoch,
            )
            (lost if ours else kept).append(entry)
        self._waiting = kept
        self._answer(lost, [Refused(execution_id)] * len(lost))

    def _schedule(self) -> None:
        """Send at the end of this turn of the loop, unless a batch is under way: its answer sends the next."""
        self._scheduled = True
        self._loop.call_soon(self._send, context=self._context)

    def _send(self) -> None:
        if not self._waiting:
            self._scheduled = False
            return
        self._sent, self._waiting = self._waiting[:LARGEST_BATCH], self._waiting[LARGEST_BATCH:]
        worker_id = self.worker_id
        try:
            answer = self._store.apply([entry.transition for entry in self._sent], worker_id, self.fence)
        except StepwellError as error:
            entries, self._sent = self._sent, []
            self._not_written(entries, error, still_ours=True)
            return
        if not isinstance(answer, asyncio.Future):
            answer = start(_awaited(answer), name="stepwell-journal")
        answer.add_done_callback(partial(self._answered, worker_id), context=self._context)

    def _send_again(self) -> None:
        self._retry = None
        self._send()

    def _answered(self, worker_id: str | None, answer: asyncio.Future[Applied]) -> None:
        entries, self._sent = self._sent, []
        error = answer.exception()
        if error is not None:
            self._not_written(entries, error, still_ours=worker_id == self.worker_id)
        else:
            self._pause = 0.0
            applied = answer.result()
            if worker_id is not None and worker_id == self.worker_id and applied.fence != self.fence:
                self._tell_fence(applied.fence)
            # The next batch goes before the answers of this one are worked on: the writer need not wait for that.
            self._send()
            self._answer(entries, applied.verdicts)
            if applied.woken and self.on_woken is not None:
                self.on_woken()
            if self.on_written is not None:
                self.on_written()
        if self._flushed and not self.is_busy():
            for future in self._flushed:
                if not future.done():
                    future.set_result(None)
            self._flushed.clear()

    def _tell_fence(self, fence: int | None) -> None:
        if self.on_fence is not None:
            self.on_fence(fence)

    def _not_written(self, entries: list[_Entry], error: BaseException, *, still_ours: bool) -> None:
        """The database is full or away: callers are told, while what executions have done waits for its return."""
        refusal = error if isinstance(error, Exception) else StoreUnavailableError(self._store.url, repr(error))
        clients = [entry for entry in entries if isinstance(entry.transition, _CLIENT)]
        owners = [entry for entry in entries if not isinstance(entry.transition, _CLIENT)]
        if not still_ours:
            for entry in owners:
                self._answer([entry], [Refused(cast("OwnerTransition", entry.transition).execution_id)])
            owners = []
        if self._closed:
            clients, owners = [*clients, *owners, *self._waiting], []
            self._waiting = []
        self._waiting[:0] = owners
        self._pause = min(self._pause * 2 or 0.1, LONGEST_PAUSE_SECONDS)
        unexpected = not isinstance(error, StepwellError)
        log.error(
            "%d transitions were not written; next try in %.1f s: %s",
            len(entries),
            self._pause,
            error,
            exc_info=error if unexpected else None,
        )
        self._retry = self._loop.call_later(self._pause, self._send_again, context=self._context)
        self._answer(clients, [refusal] * len(clients))

    def _answer(self, entries: list[_Entry], verdicts: Sequence[Verdict]) -> None:
        for entry, verdict in zip(entries, verdicts, strict=True):
            if entry.sender is not None:
                try:
                    entry.sender.settled(entry.transition, verdict)
                except Exception:
                    log.exception("The answer to %r could not be worked on", entry.transition)
            future = entry.future
            if future is not None and not future.done():
                future.set_result(verdict)


async def _awaited(answer: Awaitable[Applied]) -> Applied:
    return await answer
