"""`sandbox(app)`: the app runs on a database of its own, under a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

from stepwell._worker.worker import Worker
from stepwell.app import App
from stepwell.clock import ManualClock, from_us, to_us
from stepwell.duration import Duration
from stepwell.duration import to_us as duration_us

_TURN_SECONDS: Final = 0.001
_CALM: Final = 3
"""How many turns without a movement count as rest."""
_THREAD_CALM: Final = 20
BODY_SECONDS: Final = 1.0
"""How long, in real time, bodies get to end before the clock moves on."""
_UNSET: Final = object()


class Tester:
    """What a test does with a running app."""

    __test__ = False

    def __init__(self, app: App, clock: ManualClock, worker: Worker, stubs: dict[str, Callable[..., Any]]) -> None:
        self.app = app
        self.clock = clock
        self.worker = worker
        self._stubs = stubs

    def stub(
        self,
        step: str,
        fn: Callable[..., Any] | None = None,
        *,
        returns: object = _UNSET,
        raises: BaseException | None = None,
    ) -> None:
        """Replace the body of the steps with this name.

        Args:
            step: The name, as it is given to `step.run`.
            fn: Called with the body's arguments instead of the body.
            returns: Or: the value to return.
            raises: Or: the error to raise, each time.
        """
        if (fn is not None) + (returns is not _UNSET) + (raises is not None) != 1:
            raise ValueError("Give exactly one of fn, returns and raises.")
        self._stubs[step] = fn if fn is not None else _stub(returns, raises)

    async def advance(self, duration: Duration) -> None:
        """Move the clock on, stopping at each moment at which something is due, until everything due has happened.

        Bodies get a second of real time to end before the clock moves; one that still runs then is taken for waiting,
        for its timeout perhaps.
        """
        await self.advance_to(from_us(self.clock.now() + duration_us(duration)))

    async def advance_to(self, when: datetime) -> None:
        """Move the clock on to a moment; see `advance`."""
        target = to_us(when)
        await self._settled(BODY_SECONDS)
        while (due := self.clock.next_at()) is not None and due <= target:
            self.clock.move_to(due)
            await self._settled(BODY_SECONDS)
        self.clock.move_to(target)
        await self._settled(BODY_SECONDS)

    async def settle(self, timeout: Duration = 10) -> None:
        """Wait until nothing moves any more: bodies have ended, and executions have ended or wait for the clock.

        Args:
            timeout: Real time after which it is an error that something still runs.

        Raises:
            TimeoutError: It names the bodies that still run.
        """
        if not await self._settled(duration_us(timeout) / 1_000_000):
            running = ", ".join(self.worker.running_steps()) or "workflow code"
            raise TimeoutError(f"Not everything has come to rest: {running} still runs.")

    async def _settled(self, seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        end, calm = loop.time() + seconds, 0
        while calm < (_THREAD_CALM if self.worker.has_threads() else _CALM):
            await asyncio.sleep(_TURN_SECONDS)
            calm = calm + 1 if self.worker.is_settled() else 0
            if loop.time() >= end:
                return False
        return True

    async def crash(self) -> None:
        """Lose everything in memory, as if the process had died; a new worker continues from what was recorded."""
        await self.worker.crash()


@asynccontextmanager
async def sandbox(
    app: App, *, database: str = "sqlite://", start: datetime | None = None, concurrency: int = 1_000
) -> AsyncGenerator[Tester]:
    """Run an app for a test, in this event loop.

    Args:
        app: The app; nothing of its configured database is touched.
        database: A fresh one in memory by default.
        start: What the clock says at first (aware); 2030-01-01 UTC by default.
        concurrency: As of `app.running`.
    """
    clock = ManualClock(start)
    stubs: dict[str, Callable[..., Any]] = {}
    with app.overridden(database=database, clock=clock, stubs=stubs):
        async with app.running(concurrency=concurrency, drain_timeout=0) as worker:
            yield Tester(app, clock, worker, stubs)


def _stub(returns: object, raises: BaseException | None) -> Callable[..., Any]:
    async def body(*_: object) -> object:
        if raises is not None:
            raise raises
        return returns

    return body
