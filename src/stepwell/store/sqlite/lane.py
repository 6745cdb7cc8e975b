"""A thread that is the only one to touch a connection, and the way into it from an event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from stepwell.errors import StoreUnavailableError, WorkflowCodeError

log: Final = logging.getLogger("stepwell.sqlite")

_PATIENCE_AFTER_FAILURE_SECONDS: Final = 1.0

T = TypeVar("T")


class Resource(Protocol):
    """What lives in the thread: every method is called there, and nowhere else."""

    @property
    def url(self) -> str:
        """For messages."""
        ...

    def open(self) -> None:
        """Called once, first. May raise."""
        ...

    def tick(self) -> float | None:
        """Called after each job and each silence: do what is due. Returns how many seconds of silence it can bear."""
        ...

    def close(self) -> None:
        """Called once, last."""
        ...


R = TypeVar("R", bound=Resource)


class _Job(Generic[R, T]):
    __slots__ = ("_loop", "_work", "future")

    def __init__(self, work: Callable[[R], T]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self._loop.create_future()

    def run(self, resource: R) -> None:
        try:
            result = self._work(resource)
        except BaseException as error:
            self._post(self._fail, error)
        else:
            self._post(self._succeed, result)

    def _post(self, callback: Callable[[T], None] | Callable[[BaseException], None], value: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, value)  # pyright: ignore[reportArgumentType]  # one of two pairs
        except RuntimeError:
            log.debug("An answer came after its event loop was closed")

    def _succeed(self, result: T) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
        elif isinstance(error, Exception):
            log.warning("A job whose caller has gone failed", exc_info=error)


class Lane(Generic[R]):
    """Runs jobs on a resource one after the other. A job that was queued runs even if its caller stops waiting."""

    def __init__(self, name: str, resource: R) -> None:
        self._resource = resource
        self._queue: queue.SimpleQueue[Callable[[R], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._pid = os.getpid()
        self._closed = False

    async def open(self) -> None:
        """Start the thread and open the resource in it."""
        self._thread.start()
        try:
            await self.run(_open)
        except BaseException:
            await self.close()
            raise

    async def run(self, work: Callable[[R], T]) -> T:
        """Run `work` in the thread and wait for what it returns.

        Raises:
            StoreUnavailableError: The store is closed, or this process is a fork of the one that opened it.
        """
        return await self.submit(work)

    def submit(self, work: Callable[[R], T]) -> asyncio.Future[T]:
        """The same without waiting: the future gives what `work` returns, or raises."""
        self._check()
        job: _Job[R, T] = _Job(work)
        self._queue.put(job.run)
        return job.future

    def poke(self) -> None:
        """Let the thread tick now."""
        if not self._closed:
            self._queue.put(_nothing)

    async def close(self) -> None:
        """Run what is queued, close the resource and end the thread."""
        if self._closed:
            return
        self._closed = True
        if os.getpid() != self._pid:
            return  # the thread, and the connection in it, stayed in the parent
        job: _Job[R, None] = _Job(_close)
        self._queue.put(job.run)
        self._queue.put(None)
        await job.future

    def _check(self) -> None:
        if self._closed:
            raise StoreUnavailableError(self._resource.url, "it is closed")
        if os.getpid() != self._pid:
            raise StoreUnavailableError(
                self._resource.url, "it was opened before this process was forked; open it again in the child"
            )
        if threading.get_ident() == self._thread.ident:
            raise WorkflowCodeError(
                "stepwell was called inside the function of step.transaction, which everything else waits for. Call it before or after the transaction."
            )

    def _run(self) -> None:
        resource = self._resource
        patience: float | None = None
        while True:
            try:
                job = self._queue.get(timeout=patience)
            except queue.Empty:
                job = _nothing
            if job is None:
                return
            job(resource)
            try:
                patience = resource.tick()
            except Exception:
                log.exception("The upkeep of %s failed", resource.url)
                patience = _PATIENCE_AFTER_FAILURE_SECONDS


def _open(resource: Resource) -> None:
    resource.open()


def _close(resource: Resource) -> None:
    resource.close()


def _nothing(_: object) -> None:
    pass
