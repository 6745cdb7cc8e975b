"""SQLite as a `Store` and a `StoreReader`."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

import msgspec

from stepwell.clock import Clock
from stepwell.errors import InvalidInputError
from stepwell.ids import Rng
from stepwell.store.protocol import Pulse, StepTransaction
from stepwell.store.records import (
    Applied,
    Claimed,
    ClaimResult,
    Deletion,
    EmittedTake,
    Everything,
    ExecutionFilter,
    ExecutionPage,
    ExecutionRow,
    Expired,
    NewRun,
    Owned,
    Recorded,
    RolledBack,
    RunRow,
    Standing,
    StepRow,
    StreamPage,
    StreamWait,
    Taken,
    WorkerRow,
)
from stepwell.store.sqlite import deleting, operate, read, rows, streams, taking
from stepwell.store.sqlite.apply import apply
from stepwell.store.sqlite.claim import claim, load
from stepwell.store.sqlite.connection import DATA_ERRORS, url_of
from stepwell.store.sqlite.enlist import enlist
from stepwell.store.sqlite.lane import Lane, log
from stepwell.store.sqlite.reader import Reader
from stepwell.store.sqlite.transact import transact_step
from stepwell.store.sqlite.writer import Writer, run_query
from stepwell.store.transitions import ClientTransition, Refused, Transition, Verdict

_PAYLOAD_LIMIT: Final = 64 * 1024 * 1024
"""SQLite takes 1,000,000,000 bytes a row; input, output and error share one, each character up to four bytes."""

P = ParamSpec("P")
T = TypeVar("T")


class SqliteStore:
    """One SQLite database, seen by one App: a thread that writes and, for a file, a thread that reads.

    Several of them on one file, in one process or in many, are safe; each must stay in the process that opened it.
    """

    def __init__(self, path: Path | None, *, clock: Clock, rng: Rng) -> None:
        """Use `connect`. `path` is None for a database in memory."""
        self._path = path
        self._clock = clock
        self._writer = Writer(path, clock=clock, rng=rng, on_change=self._changed)
        self._writing = Lane("stepwell-sqlite-writer", self._writer)
        self._reading = None if path is None else Lane("stepwell-sqlite-reader", Reader(path))
        self._subscribers: tuple[_Subscriber, ...] = ()

    @classmethod
    async def connect(cls, path: Path | None, *, clock: Clock, rng: Rng) -> SqliteStore:
        """Open or create the database and bring its schema up to date."""
        store = cls(path, clock=clock, rng=rng)
        await store._writing.open()
        if store._reading is not None:
            await store._reading.open()
        return store

    @property
    def url(self) -> str:
        return url_of(self._path)

    @property
    def payload_limit(self) -> int | None:
        return _PAYLOAD_LIMIT

    # The engine's side

    def apply(
        self, batch: Sequence[Transition], worker_id: str | None = None, fence: int = 0
    ) -> asyncio.Future[Applied]:
        # A future, not a coroutine: a lone step waits for this, and a task for it would cost two turns of the loop.
        return self._writing.submit(lambda writer: apply(writer, batch, worker_id, fence))

    @property
    def takes_async_transactions(self) -> bool:
        return False

    async def transact_step(self, worker_id: str, step: StepTransaction) -> Refused | Recorded | RolledBack | None:
        return await self._writing.run(lambda writer: transact_step(writer, worker_id, step))

    def enlist(self, connection: object, batch: Sequence[ClientTransition]) -> list[Verdict]:
        return enlist(connection, self._path, batch)

    async def claim(
        self, worker_id: str, workflows: Collection[str], limit: int, *, suspects: int, now: int
    ) -> ClaimResult:
        return await self._writing.run(
            lambda writer: claim(writer, worker_id, workflows, limit, suspects=suspects, now=now)
        )

    async def load(self, worker_id: str, ids: Collection[str]) -> list[Claimed]:
        return await self._read_in_order(load, worker_id, ids)

    async def cancel(self, execution_id: str, *, reason: str | None, now: int, undo: bool = False) -> Taken | None:
        return await self._transact(taking.cancel, execution_id, reason, now, undo=undo)

    async def standing(self, execution_id: str) -> Standing | None:
        return await self._read_in_order(operate.standing, execution_id)

    async def pause(self, execution_id: str) -> Taken | None:
        return await self._transact(operate.pause, execution_id)

    async def resume(self, execution_id: str, *, now: int) -> Taken | None:
        return await self._transact(operate.resume, execution_id, now)

    async def wake(self, execution_id: str, *, run: int, waits: Collection[tuple[str, int]], now: int) -> Taken | None:
        return await self._transact(operate.wake, execution_id, run, waits, now)

    async def restart(
        self,
        execution_id: str,
        *,
        expected_run: int,
        request: str,
        from_step: str | None,
        input: str | None,
        now: int,
    ) -> NewRun | None:
        return await self._transact(operate.restart, execution_id, expected_run, request, from_step, input, now)

    async def retry(self, execution_id: str, *, expected_run: int, request: str, now: int) -> NewRun | None:
        return await self._transact(operate.retry, execution_id, expected_run, request, now)

    async def fork(
        self, execution_id: str, *, new_id: str, from_step: str | None, input: str | None, now: int
    ) -> NewRun | None:
        return await self._transact(operate.fork, execution_id, new_id, from_step, input, now)

    async def cancel_orphans(self, *, now: int, limit: int) -> list[Taken]:
        if not await self._read(_any_orphaning):
            return []
        return await self._transact(taking.cancel_orphans, now, limit)

    async def delete(self, execution_id: str) -> Deletion | None:
        return await self._transact(deleting.delete, execution_id)

    async def expire(self, *, now: int, limit: int, after: tuple[int, str] | None = None) -> Expired:
        if after is None:
            first = await self._read(deleting.first_expiry)
            if first is None or first > now:
                return Expired(0, None, first)
        return await self._transact(deleting.expire, now, limit, after)

    async def register(self, worker: WorkerRow, pulse: Pulse) -> None:
        def insert(writer: Writer) -> None:
            writer.transact(lambda connection: taking.register(connection, worker, writer.leases.until()))
            writer.leases.add(worker.id, pulse)

        await self._writing.run(insert)

    async def deregister(self, worker_id: str) -> None:
        def delete(writer: Writer) -> None:
            writer.leases.remove(worker_id)
            writer.transact(lambda connection: taking.deregister(connection, worker_id, self._clock.now()))

        await self._writing.run(delete)

    async def owned(self, worker_id: str) -> Owned:
        return await self._read_in_order(taking.owned, worker_id)

    async def workers(self) -> list[WorkerRow]:
        return await self._read(taking.workers)

    async def reap(self, reaper_id: str, worker_id: str, *, dead: bool, crashed: bool, now: int) -> int:
        def take(writer: Writer) -> int:
            return writer.transact(
                partial(
                    taking.reap,
                    reaper_id=reaper_id,
                    worker_id=worker_id,
                    dead=dead,
                    crashed=crashed,
                    lease_until=writer.leases.until(),
                    uptime=self._clock.uptime(),
                    now=now,
                )
            )

        return await self._writing.run(take)

    async def finished(self, ids: Collection[str]) -> list[str]:
        return await self._read(_finished, list(ids))

    async def arrived(self, wanted: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
        return await self._read(_arrived, list(wanted))

    async def emitted(
        self, execution_id: str, run: int, path: str, stream: str, *, take: int | None = None, start: int = 0
    ) -> EmittedTake:
        return await self._read_in_order(streams.emitted, execution_id, run, path, stream, take, start)

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        subscriber = _Subscriber(callback)
        self._watch((*self._subscribers, subscriber))

        def unsubscribe() -> None:
            subscriber.stop()
            self._watch(tuple(each for each in self._subscribers if each is not subscriber))

        return unsubscribe

    async def close(self) -> None:
        self._watch(())
        if self._reading is not None:
            await self._reading.close()
        await self._writing.close()

    # The people's side

    async def execution(self, execution_id: str) -> ExecutionRow | None:
        return await self._read(read.execution, execution_id)

    async def executions(self, query: ExecutionFilter) -> ExecutionPage:
        return await self._read(read.executions, query)

    async def steps(self, execution_id: str, run: int | None = None) -> list[StepRow]:
        return await self._read(read.steps, execution_id, run)

    async def children(self, execution_id: str) -> list[ExecutionRow]:
        return await self._read(read.children, execution_id)

    async def everything(self, execution_id: str) -> Everything | None:
        return await self._read(rows.everything, execution_id)

    async def runs(self, execution_id: str) -> list[RunRow]:
        return await self._read(read.runs, execution_id)

    async def revision(self, execution_id: str) -> tuple[object, ...]:
        return await self._read(read.revision, execution_id)

    async def stream(self, execution_id: str, name: str, after: int) -> StreamPage | None:
        return await self._read(streams.page, execution_id, name, after)

    async def stream_news(self, waits: Sequence[StreamWait]) -> list[int]:
        return await self._read(streams.news, waits)

    async def counts(self) -> dict[str, int]:
        return await self._read(read.counts)

    async def _transact(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with _naming_bad_values():
            return await self._writing.run(
                lambda writer: writer.transact(lambda connection: work(connection, *args, **kwargs))
            )

    async def _read_in_order(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Read in the writer's thread, so that the answer stands in order with those of writes."""
        with _naming_bad_values():
            return await self._writing.run(
                lambda writer: writer.read(lambda connection: work(connection, *args, **kwargs))
            )

    async def _read(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        lane: Lane[Reader] | Lane[Writer] = self._reading if self._reading is not None else self._writing
        with _naming_bad_values():
            return await lane.run(lambda resource: resource.read(lambda connection: work(connection, *args, **kwargs)))

    def _watch(self, subscribers: tuple[_Subscriber, ...]) -> None:
        self._subscribers = subscribers
        self._writer.watched = bool(subscribers)
        self._writing.poke()

    def _changed(self) -> None:
        for subscriber in self._subscribers:
            subscriber.hint()


class _Subscriber:
    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._active = True

    def hint(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._call)
        except RuntimeError:
            log.debug("A change was seen after its event loop was closed")

    def stop(self) -> None:
        self._active = False

    def _call(self) -> None:
        if self._active:
            self._callback()


@contextmanager
def _naming_bad_values() -> Generator[None]:
    try:
        yield
    except DATA_ERRORS as error:
        raise InvalidInputError(f"The database cannot take this value: {error}.") from error


def _finished(connection: sqlite3.Connection, ids: list[str]) -> list[str]:
    living = {id for (id,) in run_query(connection, "unfinished", ids=msgspec.json.encode(ids).decode())}
    return [id for id in ids if id not in living]


def _arrived(connection: sqlite3.Connection, wanted: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return run_query(connection, "events_waiting", wanted=msgspec.json.encode(wanted).decode()).fetchall()


def _any_orphaning(connection: sqlite3.Connection) -> bool:
    return bool(run_query(connection, "orphaning_exists").fetchone()[0])
