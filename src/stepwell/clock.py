"""Time as a port: what the engine knows of time it asks a `Clock`."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# A timer of the event loop counts in a monotonic clock of its own; longer waits are cut so that a step of the wall
# clock is noticed within a minute.
_LONGEST_TIMER_US = 60_000_000


class Timer(Protocol):
    """A callback that has been set; cancelling it twice, or after it ran, does nothing."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """What the engine knows of time. All values are whole microseconds."""

    def now(self) -> int:
        """Wall time since 1970-01-01 UTC: what is stored and shown."""
        ...

    def uptime(self) -> int:
        """Time that no clock setting moves, equal in all processes of this boot of this machine: leases count in it."""
        ...

    def call_at(self, when: int, callback: Callable[[], object]) -> Timer:
        """Run `callback` in the current event loop once `now()` has reached `when`, never before."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> int:
        return time.time_ns() // 1000

    def uptime(self) -> int:
        return time.monotonic_ns() // 1000

    def call_at(self, when: int, callback: Callable[[], object]) -> Timer:
        return _LoopTimer(self, when, callback)


class _LoopTimer:
    __slots__ = ("_callback", "_clock", "_handle", "_loop", "_when")

    def __init__(self, clock: SystemClock, when: int, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._when = when
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle = self._set()

    def _set(self) -> asyncio.TimerHandle:
        left = max(0, min(self._when - self._clock.now(), _LONGEST_TIMER_US))
        return self._loop.call_later(left / 1_000_000, self._ring)

    def _ring(self) -> None:
        if self._clock.now() < self._when:
            self._handle = self._set()
        else:
            self._callback()

    def cancel(self) -> None:
        self._handle.cancel()


class ManualClock:
    """A clock that stands still until it is told to advance; due timers run inside `advance`, in order of time."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = to_us(start if start is not None else datetime(2030, 1, 1, tzinfo=UTC))
        self._timers: list[tuple[int, int, _ManualTimer]] = []
        self._count = 0

    def now(self) -> int:
        """What the test has set."""
        return self._now

    def uptime(self) -> int:
        """The machine's own."""
        # Leases are a matter between processes, so a test that jumps a month ahead must not expire any.
        return time.monotonic_ns() // 1000

    def call_at(self, when: int, callback: Callable[[], object]) -> Timer:
        """Run `callback` when the clock is moved to `when`; one that is due already runs in the next turn."""
        timer = _ManualTimer(callback)
        if when <= self._now:
            asyncio.get_running_loop().call_soon(timer.ring)
        else:
            self._count += 1
            heapq.heappush(self._timers, (when, self._count, timer))
        return timer

    def next_at(self) -> int | None:
        """When the next timer is due, or None."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def move_to(self, when: int) -> None:
        """Advance to `when` and run the timers that are due by then."""
        while (due := self.next_at()) is not None and due <= when:
            self._now = max(self._now, due)
            heapq.heappop(self._timers)[2].ring()
        self._now = max(self._now, when)


class _ManualTimer:
    __slots__ = ("_callback", "cancelled")

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        self.cancelled = False

    def ring(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self._callback()

    def cancel(self) -> None:
        self.cancelled = True


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime."""
    return (moment - _EPOCH) // _MICROSECOND


LAST_US: Final = to_us(datetime.max.replace(tzinfo=UTC))
"""The last moment that a datetime in UTC can show."""


def from_us(value: int) -> datetime:
    """The aware UTC datetime of stored microseconds."""
    return _EPOCH + timedelta(microseconds=value)
