"""Whether the event loop still turns. The lease is renewed by a thread of the store, which asks here first."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

log: Final = logging.getLogger("stepwell.worker")

TICK_SECONDS: Final = 1.0
WARN_SECONDS: Final = 5.0
"""A loop that has not turned for so long is named in a warning, with the stack that blocks it."""
STUCK_SECONDS: Final = 300.0
"""After so long the lease is left to run out, so that others can take over."""


class LoopPulse:
    """Beats while the event loop turns, and for five minutes longer. A thread watches the loop and names what blocks it."""

    def __init__(self, on_lost: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._on_lost = on_lost
        self._warned = False
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
        if silent > STUCK_SECONDS:
            log.error(
                "The event loop has been blocked for %.0f s; the lease is not renewed:\n%s", silent, self._stack()
            )
            return False
        return True

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
        self._warned = False
        self._handle = self._loop.call_later(TICK_SECONDS, self._tick)

    def _watch(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            silent = time.monotonic() - self._last
            if silent > WARN_SECONDS and not self._warned:
                self._warned = True
                log.warning(
                    "The event loop has not turned for %.0f s. A step or workflow blocks it; make the function a plain `def`, so that it runs in a thread:\n%s",
                    silent,
                    self._stack(),
                )

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread)  # pyright: ignore[reportPrivateUsage] - documented, whatever its name says
        return "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)"
