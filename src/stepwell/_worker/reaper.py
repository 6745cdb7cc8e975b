"""Taking over from workers that died: at once when their process is gone from this machine, else when the lease ends."""

from __future__ import annotations

import logging
from typing import Final

from stepwell._worker.process import boot_id, is_alive, is_gone
from stepwell.clock import Clock
from stepwell.store.protocol import Store
from stepwell.store.records import WorkerRow

log: Final = logging.getLogger("stepwell.worker")

LOOK_SECONDS: Final = 0.5
"""How often processes are looked at."""
READ_EVERY: Final = 10
"""Every how many looks the list of workers is read again even if nothing was heard."""


class Reaper:
    """Looks after the other workers."""

    def __init__(self, store: Store, clock: Clock, worker_id: str) -> None:
        self._store = store
        self._clock = clock
        self.worker_id = worker_id
        self._known: list[WorkerRow] = []
        self._looks = 0

    def heard(self) -> None:
        """Another process changed the database: it may be a new worker."""
        self._looks = 0

    async def tick(self) -> int:
        """Reap who is dead; returns how many executions went back to the queue."""
        if self._looks % READ_EVERY == 0:
            self._known = [worker for worker in await self._store.workers() if worker.id != self.worker_id]
        self._looks += 1
        back = 0
        for worker in list(self._known):
            gone = is_gone(worker)
            if gone or self._has_run_out(worker):
                back += await self._reap(worker, gone)
        return back

    def _has_run_out(self, worker: WorkerRow) -> bool:
        return worker.boot_id != boot_id() or worker.lease_until < self._clock.uptime()

    async def _reap(self, worker: WorkerRow, gone: bool) -> int:
        # A process that exists but does not renew is stopped or stuck. That is no crash of what it was running.
        back = await self._store.reap(
            self.worker_id, worker.id, dead=gone, crashed=not is_alive(worker), now=self._clock.now()
        )
        self._known = [other for other in self._known if other.id != worker.id]
        self._looks = 0
        if back:
            log.warning(
                "Worker %s (process %d on %s) %s; its %d executions go back to the queue",
                worker.id,
                worker.pid,
                worker.host,
                "has died" if gone else "has not renewed its lease",
                back,
            )
        return back
