"""How an execution waits, and when it leaves memory because it waits.

Waits of a few seconds stay; a longer one parks the execution once nothing of it runs and nothing is being written. A strand
that only waits for others (the function in `gather`) looks open, so after a grace it is taken for waiting: workflow code
always, a body's first strand only if the body has tasks.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, NamedTuple, Never

from stepwell._engine.call import Call
from stepwell._engine.deadlines import Deadline
from stepwell._engine.ending import Ending
from stepwell._engine.host import Host
from stepwell._engine.listening import Inbox
from stepwell._engine.outcome import Park, Release, Stop
from stepwell._engine.ports import Returned
from stepwell._engine.recording import Recording
from stepwell.store.records import Claimed
from stepwell.store.transitions import Idle, Resumed

STAYS_IN_MEMORY_US = 5_000_000
"""Waits up to this long do not park."""
STAYS_AFTER_ARRIVAL_SECONDS: Final = 2.0
"""How long an execution that listens stays in memory after something has arrived, for more may follow at once."""
PARK_GRACE_SECONDS = 1.0
"""How long open workflow code beside a long wait may take to reach its next step before the execution parks."""
BODY_GRACES: Final = 10
"""How many times longer a body gets that seems to wait only for tasks of its own."""


class Wait(NamedTuple):
    """Something that waits for a stored time, or for what comes from outside.

    A deadline around other code is not `durable`: it is no reason to park.
    """

    when: int | None
    path: str
    durable: bool
    listening: bool
    deadline: Deadline | None


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Resting(Recording):
    """The waits of an incarnation, and the decision to park."""

    __slots__ = (
        "_check_due",
        "_grace",
        "_held",
        "_inbox",
        "_lively",
        "_shown_sleeping",
        "claimed",
        "draining",
        "ending",
        "loop",
        "paused",
        "seq",
        "signalled",
        "threads",
        "waits",
    )

    def __init__(self, host: Host, claimed: Claimed) -> None:
        super().__init__(host, claimed.id, claimed.epoch, crashed=claimed.crashes > 0)
        self.claimed = claimed
        self.loop = asyncio.get_running_loop()
        self.seq = max((row.seq for row in claimed.history), default=0)
        self.waits: dict[asyncio.Future[None], Wait] = {}
        self.threads: set[asyncio.Future[Returned]] | frozenset[Never] = NONE
        self.ending: Ending | None = None
        self.draining = False
        self.paused = claimed.paused
        self.signalled = False
        self._held: set[asyncio.Future[None]] | frozenset[Never] = NONE
        self._inbox: Inbox | None = None
        self._check_due = False
        self._grace: asyncio.TimerHandle | None = None
        self._lively: asyncio.TimerHandle | None = None
        self._shown_sleeping = False

    @abstractmethod
    def request_stop(self, stop: Stop) -> None:
        """Decide how this incarnation leaves. The first decision stands, except that a lost execution stays lost."""

    async def wait_until(self, when: int, call: Call) -> None:
        """Wait for a stored time, in memory or out of it."""
        future = self._wait(when, call.path, durable=True)
        self.rest(call)
        self.check_park()
        try:
            await future
        finally:
            self.wake(call)
            self._end_wait(future)
        if self.stop is not None:
            await self.unwound()
        self.resumed()

    @property
    def inbox(self) -> Inbox:
        """The steps that listen for events."""
        if self._inbox is None:
            self._inbox = Inbox(self)
        return self._inbox

    def start_listening(self, when: int | None, path: str) -> asyncio.Future[None]:
        """A future for something that comes from outside, done at a stored time at the latest."""
        return self._wait(when, path, durable=True, listening=True)

    async def listen_on(self, call: Call, future: asyncio.Future[None]) -> None:
        """Wait for it, in memory or out of it."""
        self.rest(call)
        self.check_park()
        try:
            await future
        finally:
            self.wake(call)
            self._end_wait(future)
        if self.stop is not None:
            await self.unwound()
        self.stay_for_more()

    def stay_for_more(self) -> None:
        """Something has arrived: stay in memory for a while, so that what follows need not replay everything."""
        if self._lively is not None:
            self._lively.cancel()
        self._lively = self._later(STAYS_AFTER_ARRIVAL_SECONDS, self._calm)

    def _later(self, seconds: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        # Without the caller's context: asyncio keeps cancelled timers, and with them the scope, until their time.
        return self.loop.call_later(seconds, callback, context=self.host.base_context)

    def _calm(self) -> None:
        self._lively = None
        self.check_park()

    async def hold(self, call: Call) -> None:
        """Begin nothing while the execution is paused or the worker drains; it leaves as soon as no body runs.

        A step inside a body may begin while the worker drains, for the body has to end; not while it is paused. Of a fan-out
        the next item waits, even if the body around it does not: it may have thousands of them.
        """
        inside = call.parent is not None and call.parent.is_body and call.index is None
        while self.paused or self.signalled or (self.draining and not inside):
            future: asyncio.Future[None] = self.loop.create_future()
            held = self._held = self._held if isinstance(self._held, set) else set()
            held.add(future)
            self.rest(call)
            self.check_park()
            try:
                await future
            finally:
                held.discard(future)
                self.wake(call)
        if self.stop is not None:
            await self.unwound()

    def let_go(self) -> None:
        """Whoever is held looks again whether it still must be."""
        for future in self._held:
            _set(future)

    def end_earlier(self, path: str, when: int) -> None:
        """A wait was ended before its time."""
        for future, wait in self.waits.items():
            if wait.durable and not wait.listening and wait.path == path and wait.when is not None and when < wait.when:
                _set(future)

    async def wait_for_first(self, call: Call, futures: Iterable[asyncio.Future[Any]]) -> None:
        """Let a call rest until one of these is done."""
        waiting = list(futures)
        self.rest(call)

        def wake(_: object) -> None:
            # At once, not when the waiting task gets its turn: in between the execution would seem to wait.
            self.wake(call)

        for future in waiting:
            future.add_done_callback(wake)
        self.check_park()
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.remove_done_callback(wake)
            self.wake(call)

    def watch_deadline(self, when: int, path: str) -> asyncio.Future[None]:
        """A future that is done at a stored time. It ends parking in time, but is no reason to park by itself."""
        return self._wait(when, path, durable=False)

    def end_deadline(self, future: asyncio.Future[None]) -> None:
        """The deadline does not matter any more."""
        self._end_wait(future)

    def _wait(self, when: int | None, path: str, *, durable: bool, listening: bool = False) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self.loop.create_future()
        deadline = None if when is None else self.host.deadlines.at(when, partial(_set, future))
        self.waits[future] = Wait(when, path, durable, listening, deadline)
        return future

    def _end_wait(self, future: asyncio.Future[None]) -> None:
        deadline = self.waits.pop(future).deadline
        if deadline is not None:
            deadline.cancel()
        if future.done():
            if not future.cancelled():
                future.exception()
        else:
            future.cancel()

    def is_idle(self) -> bool:
        """Whether nothing of this execution runs at the moment, so that a wait is all there is to show."""
        idle = self.open_bodies <= 0 and self.busy <= 1 and self.writes == 0
        self._shown_sleeping = self._shown_sleeping or idle
        return idle

    def idle_again(self, wake_at: int | None, path: str, status: str = "sleeping") -> None:
        """A recorded wait is taken up in memory. Whoever dies now did not die of this execution."""
        if self.is_idle():
            self.note(Idle(self.id, self.epoch, status, wake_at, path))

    def is_waiting(self) -> bool:
        """Whether the execution only waits for stored times, with nothing running and nothing to write."""
        return (
            self.stop is None
            and not self._closing
            and not self.signalled
            and not self.writes
            and self.busy <= 0
            and not (
                self.open_bodies > 0 and any(call.is_at_work() for call in self.host.bodies if call.runner is self)
            )
            and bool(self.waits)
            and not any(future.done() for future in self.waits)
        )

    def resumed(self) -> None:
        """A wait that was kept in memory is over."""
        if self._shown_sleeping:
            self._shown_sleeping = False
            self.note(Resumed(self.id, self.epoch))

    def check_park(self) -> None:
        """Look, at the end of this turn of the loop, whether the execution should leave memory."""
        if not self._check_due:
            self._check_due = True
            self.loop.call_soon(self._check_park)

    def _check_park(self) -> None:
        self._check_due = False
        if (self.draining or self.paused) and self._is_at_rest():
            if self.threads and self.open_code > 0 and not self.draining:
                self._give_grace()
            else:
                self.request_stop(Release(self.claimed.created_at))
            return
        park = self._wanted_park()
        if park is None:
            return
        if self.open_code <= 0 and self.open_bodies <= 0:
            self.request_stop(park)
        elif self._grace is None:
            graces = 1 if self.open_bodies <= 0 else BODY_GRACES
            self._grace = self._later(PARK_GRACE_SECONDS * graces, partial(self._grace_over, self.seq))

    def _give_grace(self) -> None:
        """A thread may be about to return: a paused function that only has to do that completes."""
        if self._grace is None:
            self._grace = self._later(PARK_GRACE_SECONDS, self._pause_grace_over)

    def _pause_grace_over(self) -> None:
        self._grace = None
        if self.paused and self._is_at_rest():
            self.request_stop(Release(self.claimed.created_at))

    def _is_at_rest(self) -> bool:
        """Whether no body runs and nothing is being written."""
        return self.stop is None and not self._closing and not self.writes and self.busy <= 0 and self.open_bodies <= 0

    def _wanted_park(self) -> Park | None:
        """How to park, if everything waits or might only seem not to."""
        if self.stop is not None or self._closing or self.writes or self.busy > 0:
            return None
        if self.open_bodies > 0 and any(call.is_at_work() for call in self.host.bodies if call.runner is self):
            return None
        if any(future.done() for future in self.waits) or not any(wait.durable for wait in self.waits.values()):
            return None
        waits = self.waits.values()
        listening = any(wait.listening for wait in waits)
        if listening and self._lively is not None and self.host.has_room():
            return None
        when = min((wait.when for wait in waits if wait.when is not None), default=None)
        if when is not None and when - self.clock.now() <= STAYS_IN_MEMORY_US:
            return None
        path = next(wait.path for wait in waits if wait.when == when)
        deadline = self.claimed.deadline_at
        if deadline is not None and (when is None or deadline < when) and self.ending is None:
            when = deadline
        return Park(when, path, "listening" if listening else "sleeping")

    def _grace_over(self, seq: int) -> None:
        self._grace = None
        park = self._wanted_park()
        if park is None:
            return
        if seq != self.seq:
            self.check_park()
        else:
            self.request_stop(park)


NONE: Final[frozenset[Never]] = frozenset()
"""Most executions never have what would stand in this set, so they share it."""
