"""One list of deadlines for all waits and timeouts of a worker: a timer of the event loop for each would cost more than a step."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from stepwell.clock import Clock, Timer

_Entry = tuple[int, int, "Deadline"]


class Deadline:
    """A callback at a time; cancelling only marks it, the list forgets it when its time comes."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Deadlines:
    """Callbacks ordered by time behind a single timer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[_Entry] = []
        self._count = 0
        self._timer: Timer | None = None
        self._timer_at = 0

    def at(self, when: int, callback: Callable[[], object]) -> Deadline:
        """Run `callback` in the event loop once the clock has reached `when`."""
        deadline = Deadline(callback)
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, deadline))
        if self._timer is None or when < self._timer_at:
            self._arm(when)
        elif len(self._heap) > 1_000 and self._count % 1_000 == 0:
            self._forget_cancelled()
        return deadline

    def close(self) -> None:
        """Forget everything."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, when: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._clock.call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._clock.now()
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].callback is None):
            callback = heapq.heappop(self._heap)[2].callback
            if callback is not None:
                callback()
        if self._heap and self._timer is None:
            self._arm(self._heap[0][0])

    def _forget_cancelled(self) -> None:
        self._heap = [entry for entry in self._heap if entry[2].callback is not None]
        heapq.heapify(self._heap)
