"""One background loop: a tick, now and then or when woken, that survives its own failures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from stepwell._engine.background import start

log: Final = logging.getLogger("stepwell.worker")


class Loop:
    """Calls `tick` after each `wake`, and at the latest every `interval` seconds; one at a time.

    A tick that raises is logged and tried again at the next turn.
    """

    def __init__(self, name: str, tick: Callable[[], Awaitable[object]], *, interval: float) -> None:
        self._name = name
        self._tick = tick
        self._interval = interval
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = start(self._run(), name=f"stepwell-{self._name}")

    def wake(self) -> None:
        """Tick soon; also when a tick is running, for it may have looked already."""
        self._woken.set()

    async def stop(self) -> None:
        """End the loop; a tick that is running is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._tick()
            except Exception:
                log.exception("The %s loop failed and is tried again", self._name)
                await asyncio.sleep(min(1.0, self._interval))
            if not self._woken.is_set():
                handle = asyncio.get_running_loop().call_later(self._interval, self._woken.set)
                try:
                    await self._woken.wait()
                finally:
                    handle.cancel()
