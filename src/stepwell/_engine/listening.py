"""`step.listen`: an event is received in the transaction that completes the step.

Several steps of an execution may listen for one event. They are served in the order in which they were recorded: only the
first of them asks for the event, and the next one asks once the first has it, or waits no longer.
"""

from __future__ import annotations

import asyncio
import bisect
from typing import TYPE_CHECKING

from stepwell._engine.call import Call, Work
from stepwell._engine.failure import record_error
from stepwell._engine.outcome import Outcome
from stepwell.codec import Codec
from stepwell.errors import EventTimeoutError, PayloadCodecError, SerializationError
from stepwell.store.records import HistoryRow
from stepwell.store.transitions import Listened, Received

if TYPE_CHECKING:
    from stepwell._engine.resting import Resting


class Listener:
    """A step that waits for something from outside; `hear` makes it look."""

    __slots__ = ("_future", "heard", "order")

    def __init__(self, order: tuple[int, int]) -> None:
        self.order = order
        self.heard = False
        self._future: asyncio.Future[None] | None = None

    def hear(self) -> None:
        """Something may have arrived."""
        self.heard = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, runner: Resting, call: Call, when: int | None) -> None:
        """Return when something was heard, or at a stored time."""
        if not self.heard:
            self._future = runner.start_listening(when, call.path)
            try:
                await runner.listen_on(call, self._future)
            finally:
                self._future = None
        self.heard = False


class Inbox:
    """The listeners of one execution, by event, in the order in which they were recorded."""

    def __init__(self, runner: Resting) -> None:
        self._runner = runner
        self._listeners: dict[str, list[Listener]] = {}

    def add(self, event: str, listener: Listener) -> None:
        """From now on the listener takes part."""
        bisect.insort(self._listeners.setdefault(event, []), listener, key=_order)
        self._runner.host.arrivals.expect_event(self._runner.id, event, listener.hear)

    def remove(self, event: str, listener: Listener) -> None:
        """The listener has what it wanted, or wants it no more: the next one looks."""
        self._runner.host.arrivals.forget_event(self._runner.id, event, listener.hear)
        listeners = self._listeners[event]
        listeners.remove(listener)
        if listeners:
            listeners[0].hear()
        else:
            del self._listeners[event]

    def is_first(self, event: str, listener: Listener) -> bool:
        """Whether the next event is for this listener."""
        return self._listeners[event][0] is listener


def _order(listener: Listener) -> tuple[int, int]:
    return listener.order


class ListenWork:
    """Wait for an event of a name."""

    kind = "listen"

    def __init__(self, event: str, timeout: int | None, codec: Codec, input: str) -> None:
        self._event = event
        self._timeout = timeout
        self._codec = codec
        self._input = input

    def value_of(self, call: Call, text: str) -> object:
        try:
            return self._codec.receive(text)
        except PayloadCodecError:
            raise
        except SerializationError as error:
            # The event is received; its sender is to blame, and the workflow may want to say so.
            raise SerializationError(
                f"The event {self._event!r} that step {call.path!r} received does not fit: {error}"
            ) from error

    def same_as(self, other: Work) -> bool:
        return isinstance(other, ListenWork) and other._event == self._event

    async def perform(self, call: Call, record: HistoryRow | None) -> Outcome:
        runner = call.runner
        call.input = self._input
        if record is not None:
            call.started_at, wake_at = record.started_at, record.wake_at
        else:
            call.started_at = runner.clock.now()
            wake_at = None if self._timeout is None else call.started_at + self._timeout
        listener = Listener((call.started_at, call.seq))
        runner.inbox.add(self._event, listener)
        try:
            if record is not None:
                # Others that were recorded before this one may still be on their way here, in this very turn.
                runner.idle_again(wake_at, call.path, "listening")
                await asyncio.sleep(0)
            while True:
                outcome = await self._look(call, listener, wake_at)
                if outcome is not None:
                    runner.resumed()
                    return outcome
                await listener.wait(runner, call, wake_at)
        finally:
            runner.inbox.remove(self._event, listener)

    async def _look(self, call: Call, listener: Listener, wake_at: int | None) -> Outcome | None:
        """Take the event if it is there, or end the waiting if its time is over."""
        runner = call.runner
        now = runner.clock.now()
        error = None
        if wake_at is not None and wake_at <= now:
            seconds = (wake_at - call.started_at) / 1_000_000
            error = record_error(EventTimeoutError(call.path, self._event, seconds))
        listener.heard = False
        verdict = await runner.answer(
            Listened(
                runner.id,
                runner.epoch,
                runner.run,
                call.path,
                call.seq,
                self._input,
                self._event,
                call.started_at,
                now,
                wake_at,
                runner.inbox.is_first(self._event, listener),
                error,
                runner.is_idle(),
            ),
            call,
            _outcome_of,
        )
        if isinstance(verdict, Received):
            return Outcome("completed", verdict.payload)
        return None if error is None else Outcome("failed", error)


def _outcome_of(verdict: object) -> Outcome | None:
    return Outcome("completed", verdict.payload) if isinstance(verdict, Received) else None
