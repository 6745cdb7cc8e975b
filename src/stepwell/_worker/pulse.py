"""Whether the event loop still turns. The lease is renewed by a thread of the store, which asks here first."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

log: Final = logging.getLogger("stepwell.worker")

TICK_SECONDS = 0.5
WARN_SECONDS = 1.0
"""Who blocks the loop for so long is named in a warning, once for each time, with the stack."""
STUCK_SECONDS = 300.0
"""After so long the lease is left to run out, so that others can take over."""


class LoopPulse:
    """Beats while the event loop turns, and for five minutes longer. A thread watches the loop and names what blocks it.

    Args:
        on_lost: Called in the event loop when the lease is lost.
        name_of: Called in any thread; says whose a task is.
    """

    def __init__(self, on_lost: Callable[[], object], name_of: Callable[[asyncio.Task[Any] | None], str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._on_lost = on_lost
        self._name_of = name_of
        self._warned = False
        self._given_up = False
        self._stopped = False
        self._last = time.monotonic()
        self.lease_until = 0
        self._handle = self._loop.call_later(TICK_SECONDS, self._tick)
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="stepwell-pulse", daemon=True).start()

    def is_beating(self) -> bool:
        if self._stopped:
            return False
        silent = time.monotonic() - self._last
        if silent <= STUCK_SECONDS:
            return True
        if not self._given_up:
            self._given_up = True
            log.error(
                "%s has blocked the event loop for %.1f s; the lease is not renewed any more, so that others take over:\n%s",
                self._culprit(),
                silent,
                self._stack(),
            )
        return False

    def renewed(self, lease_until: int) -> None:
        self.lease_until = lease_until

    def lost(self) -> None:
        if self._stopped:
            return
        try:
            self._loop.call_soon_threadsafe(self._on_lost)
        except RuntimeError:
            # The loop is closed already: there is nothing left to stop.
            return

    def stop(self) -> None:
        """The worker is no more: nothing is said to it and nothing is heard of it."""
        self._stopped = True
        self._ended.set()
        self._handle.cancel()

    def _tick(self) -> None:
        self._last = time.monotonic()
        self._warned = self._given_up = False
        self._handle = self._loop.call_later(TICK_SECONDS, self._tick)

    def _watch(self) -> None:
        looked_at = awake_since = time.monotonic()
        while not self._ended.wait(TICK_SECONDS):
            now = time.monotonic()
            slept, looked_at = now - looked_at, now
            if slept > WARN_SECONDS:
                # This thread did not get its turn either: the whole process stood still, and nobody in it is to blame.
                awake_since = now
            silent = now - max(self._last, awake_since)
            if silent > WARN_SECONDS + TICK_SECONDS and not self._warned:
                self._warned = True
                log.warning(
                    "%s has blocked the event loop for %.1f s; meanwhile no other execution moves. Make the function that blocks a plain `def`, so that it runs in a thread, or pass executor='process':\n%s",
                    self._culprit(),
                    silent,
                    self._stack(),
                )

    def _culprit(self) -> str:
        try:
            return self._name_of(asyncio.current_task(self._loop))
        except RuntimeError:
            # The loop turns again and changes what is being looked at.
            return "Something"

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread)  # pyright: ignore[reportPrivateUsage] - documented, whatever its name says
        return "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)"
