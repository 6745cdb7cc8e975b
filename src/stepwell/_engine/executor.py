"""Threads for blocking functions.

`asyncio.to_thread` wakes the event loop once per call, which is most of its cost. Here finished calls gather in a queue and
one wake-up hands over all of them.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from stepwell._engine.ports import Returned

_Job: TypeAlias = tuple[contextvars.Context, Callable[[], object], "asyncio.Future[Returned]"]


class ThreadExecutor:
    """A pool for step bodies, grown on demand, and single threads for workflow functions."""

    def __init__(self, threads: int) -> None:
        self._limit = threads
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0
        self._loop = asyncio.get_running_loop()
        self._returned: deque[tuple[asyncio.Future[Returned], Returned]] = deque()
        self._woken = False
        self._lock = threading.Lock()

    def submit(self, context: contextvars.Context, fn: Callable[[], object]) -> asyncio.Future[Returned]:
        future: asyncio.Future[Returned] = self._loop.create_future()
        with self._lock:
            self._busy += 1
            grow = self._busy > self._threads < self._limit
        if grow:
            self._threads += 1
            threading.Thread(target=self._work, name=f"stepwell-body-{self._threads}", daemon=True).start()
        self._jobs.put((context, fn, future))
        return future

    def spawn(self, context: contextvars.Context, fn: Callable[[], object]) -> asyncio.Future[Returned]:
        future: asyncio.Future[Returned] = self._loop.create_future()

        def run() -> None:
            self._hand_over(future, _run(context, fn))

        threading.Thread(target=run, name="stepwell-workflow", daemon=True).start()
        return future

    def close(self) -> None:
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            context, fn, future = job
            self._hand_over(future, _run(context, fn), pooled=True)
            del job, context, fn, future

    def _hand_over(self, future: asyncio.Future[Returned], returned: Returned, *, pooled: bool = False) -> None:
        with self._lock:
            if pooled:
                self._busy -= 1
            self._returned.append((future, returned))
            if self._woken:
                return
            self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            # The loop was closed while the body ran: nobody waits for it any more.
            return

    def _deliver(self) -> None:
        with self._lock:
            self._woken = False
        while self._returned:
            future, returned = self._returned.popleft()
            if not future.done():
                future.set_result(returned)


def _run(context: contextvars.Context, fn: Callable[[], object]) -> Returned:
    try:
        return Returned(context.run(fn), None)
    except BaseException as error:
        return Returned(None, error)
