"""The least that any engine with the same guarantees has to do; everything else is measured against it.

Asyncio tasks, one future a row, JSON of each result and of a preview of its arguments; the same rows, ids and
statements as the store, through the same driver with the same pragmas, written by one thread with group commit. No
replay, no names, no retries, no ownership: nothing of an engine.
"""

from __future__ import annotations

import asyncio
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from stepwell.clock import SystemClock
from stepwell.ids import Ids
from stepwell.store.sqlite.connection import connect_writer, query

WARN_BELOW: Final = 60_000
"""Rows a second under which the floor, or the machine, is too slow for the ratios to mean anything."""

_Row: TypeAlias = tuple[object, ...]
_Batch: TypeAlias = "tuple[list[_Row], list[_Row], list[_Row], list[asyncio.Future[None]]]"

_OWNER: Final = "floor"
_STEP: Final = query("step_finished")
_encode: Final = msgspec.json.Encoder().encode


async def body(number: int) -> dict[str, int]:
    """What every step of the floor and of the engine does."""
    return {"number": number}


def body_in_thread(number: int) -> dict[str, int]:
    """The same, blocking."""
    return {"number": number}


class Floor:
    """Rows in, futures out."""

    def __init__(self, path: Path) -> None:
        self.new: list[_Row] = []
        self.steps: list[_Row] = []
        self.ended: list[_Row] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._busy = False
        self._loop = asyncio.get_running_loop()
        self._create_future = self._loop.create_future
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(path,), daemon=True)
        self._thread.start()
        self._ready.result()

    def close(self) -> None:
        self._batches.put(None)
        self._thread.join()

    def write(self, rows: list[_Row], row: _Row) -> asyncio.Future[None]:
        """Add a row to `new`, `steps` or `ended`; the future is done when it is durable."""
        future: asyncio.Future[None] = self._create_future()
        rows.append(row)
        self._waiting.append(future)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._send)
        return future

    def _send(self) -> None:
        self._batches.put((self.new, self.steps, self.ended, self._waiting))
        self.new, self.steps, self.ended, self._waiting = [], [], [], []

    def _written(self, futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            future.set_result(None)
        if self._waiting:
            self._send()
        else:
            self._busy = False

    def _failed(self, futures: list[asyncio.Future[None]], error: Exception) -> None:
        for future in futures:
            future.set_exception(error)

    def _work(self, path: Path) -> None:
        try:
            path.touch()
            connection = connect_writer(path, lambda connection, statement: connection.execute(statement))
        except BaseException as error:
            self._ready.set_exception(error)
            raise
        self._ready.set_result(None)
        while (batch := self._batches.get()) is not None:
            new, steps, ended, futures = batch
            try:
                connection.execute("BEGIN IMMEDIATE")
                if new:
                    _insert(connection, new)
                if steps:
                    connection.executemany(_STEP, steps)
                if ended:
                    _end(connection, ended)
                connection.execute("COMMIT")
            except Exception as error:
                self._loop.call_soon_threadsafe(self._failed, futures, error)
                raise
            self._loop.call_soon_threadsafe(self._written, futures)
        connection.close()


def _insert(connection: sqlite3.Connection, new: list[_Row]) -> None:
    executions = [
        (id, "floor", "running", _OWNER, 1, None, 0, *(None,) * 3, None, False, *(None,) * 5, now, now)
        for id, _, now in new
    ]
    connection.executemany(query("execution_insert"), executions)
    connection.executemany(query("payload_insert"), [(id, input) for id, input, _ in new])


def _end(connection: sqlite3.Connection, ended: list[_Row]) -> None:
    connection.executemany(query("finished"), [("completed", None, now, id, _OWNER, 1) for id, _, now in ended])
    connection.executemany(query("payload_finished"), [(output, None, id, 1) for id, output, _ in ended])
    connection.executemany(query("steps_cancel_open"), [{"now": now, "id": id, "run": 1} for id, _, now in ended])


async def run(path: Path, executions: int, steps: int) -> float:
    """Run executions side by side, their steps one after the other; returns seconds."""
    with _open(path) as floor:
        ids = Ids(SystemClock(), random.Random(1))
        began = time.perf_counter()
        await asyncio.gather(*(_execution(floor, ids.new(), steps) for _ in range(executions)))
        return time.perf_counter() - began


async def fan_out(path: Path, steps: int) -> float:
    """One execution whose steps run side by side, each in a task of its own; returns seconds."""
    with _open(path) as floor:
        id = Ids(SystemClock(), random.Random(1)).new()
        began = time.perf_counter()
        await floor.write(floor.new, (id, "null", _now()))
        await asyncio.gather(*(_step(floor, id, number) for number in range(steps)))
        await floor.write(floor.ended, (id, "null", _now()))
        return time.perf_counter() - began


@contextmanager
def _open(path: Path) -> Generator[Floor]:
    floor = Floor(path)
    try:
        yield floor
    finally:
        floor.close()


async def _execution(floor: Floor, id: str, steps: int) -> None:
    await floor.write(floor.new, (id, str(steps), _now()))
    for number in range(steps):
        await _step(floor, id, number)
    await floor.write(floor.ended, (id, "null", _now()))


async def _step(floor: Floor, id: str, number: int) -> None:
    preview = _encode((number,)).decode()
    began = _now()
    output = _encode(await body(number)).decode()
    path = f"step-{number}"
    row = (id, 1, 1, path, number, "run", "completed", 1, preview, output, None, began, _now(), 0)
    await floor.write(floor.steps, row)


def _now() -> int:
    return time.time_ns() // 1000
