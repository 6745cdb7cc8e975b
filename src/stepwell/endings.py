"""How executions ended, and who in this process waits for it."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from stepwell._engine.background import start
from stepwell.store.protocol import Store
from stepwell.store.records import ExecutionRow

POLL_SECONDS: Final = 1.0
"""How often awaited executions are looked at even if nothing was heard of them."""


class Ending(NamedTuple):
    """How an execution ended: `text` is the output, the recorded error, or the reason."""

    status: str
    text: str | None


def ending_of(row: ExecutionRow) -> Ending:
    """How the execution of a terminal row ended."""
    text = {"completed": row.output, "failed": row.error}.get(row.status, row.reason)
    return Ending(row.status, text)


class Endings:
    """Who waits for the end of which execution; one shared query for all of them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, list[asyncio.Future[Ending | None]]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._again = False
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, execution_id: str) -> Ending | None:
        """Return when the execution seems to have ended, with its ending if that is known."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Ending | None] = loop.create_future()
        self._waiting.setdefault(execution_id, []).append(future)
        if self._timer is None:
            self._timer = loop.call_later(POLL_SECONDS, self._poll)
        try:
            return await future
        finally:
            left = [other for other in self._waiting.get(execution_id, ()) if other is not future]
            if left:
                self._waiting[execution_id] = left
            else:
                self._waiting.pop(execution_id, None)

    def tell(self, execution_id: str, ending: Ending | None = None) -> None:
        """The execution has ended, or so it seems."""
        for future in self._waiting.pop(execution_id, ()):
            if not future.done():
                future.set_result(ending)

    def look(self) -> None:
        """Ask the database for all that are awaited."""
        if not self._waiting:
            return
        if self._looking is not None:
            self._again = True
            return
        self._looking = start(self._ask(), name="stepwell-endings")

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._looking is not None:
            self._looking.cancel()

    async def _ask(self) -> None:
        try:
            while self._waiting:
                self._again = False
                for execution_id in await self._store.finished(list(self._waiting)):
                    self.tell(execution_id)
                if not self._again:
                    return
        finally:
            self._looking = None

    def _poll(self) -> None:
        self._timer = None
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(POLL_SECONDS, self._poll)
            self.look()
