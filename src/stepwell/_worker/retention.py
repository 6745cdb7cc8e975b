"""Deleting what has been kept for long enough, in small transactions with pauses between, so that nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from stepwell._engine.deadlines import Deadline, Deadlines
from stepwell._worker.loop import Loop
from stepwell.clock import Clock
from stepwell.ids import Rng
from stepwell.store.protocol import Store

log: Final = logging.getLogger("stepwell.worker")

LOOK_SECONDS: Final = 60.0
"""How often one looks, give or take a quarter."""
AT_ONCE: Final = 200
PAUSE_SECONDS: Final = 0.01
PAUSES_PER_WORK: Final = 9.0
"""A tenth of the store's time at most: so many times as long as a transaction took, nothing is deleted."""


class Retention:
    """Deletes terminal executions when their retention ends.

    By real time it looks every minute, whoever has ended what. By the clock it also looks when the first execution that it
    knows of is due, but not more often than every minute: a test that moves the clock sees it happen.
    """

    def __init__(self, store: Store, clock: Clock, rng: Rng, deadlines: Deadlines, kept: Iterable[int | None]) -> None:
        """`kept` are the retentions of the workflows that run here, in microseconds."""
        self._store = store
        self._clock = clock
        self._deadlines = deadlines
        self._shortest = min((each for each in kept if each is not None), default=None)
        self._spacing = int(LOOK_SECONDS * 1_000_000 * (0.75 + rng.random() / 2))
        self._loop = Loop("retention", self._tick, interval=self._spacing / 1_000_000)
        self._next: Deadline | None = None
        self._next_at: int | None = None
        self._not_before = clock.now()
        self.is_busy = False
        """Whether it deletes, or is about to."""

    def start(self) -> None:
        self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()
        if self._next is not None:
            self._next.cancel()

    def ended(self) -> None:
        """An execution has ended: it will be due, at the earliest, after the shortest retention."""
        if self._shortest is not None:
            self._look_at(self._clock.now() + self._shortest)

    def _look_at(self, when: int) -> None:
        when = max(when, self._not_before)
        if self._next_at is not None and self._next_at <= when:
            return
        if self._next is not None:
            self._next.cancel()
        self._next_at = when
        self._next = self._deadlines.at(when, self._due)

    def _due(self) -> None:
        self._next_at = self._next = None
        self.is_busy = True
        self._loop.wake()

    async def _tick(self) -> None:
        self.is_busy = True
        try:
            await self._delete_all()
        finally:
            self.is_busy = False

    async def _delete_all(self) -> None:
        deleted = 0
        after: tuple[int, str] | None = None
        while True:
            began = self._clock.uptime()
            expired = await self._store.expire(now=self._clock.now(), limit=AT_ONCE, after=after)
            deleted += expired.deleted
            after = expired.after
            if after is None:
                break
            took = (self._clock.uptime() - began) / 1_000_000
            await asyncio.sleep(max(PAUSE_SECONDS, took * PAUSES_PER_WORK))
        if deleted:
            log.info("%d executions were deleted, as their retention had ended", deleted)
        self._not_before = self._clock.now() + self._spacing
        if expired.next_at is not None:
            self._look_at(expired.next_at)
