"""What waits must cost next to nothing: memory of sleeping and of resident executions, and how punctually they wake."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path
from typing import Final

from benchmarks.child import Channel
from benchmarks.database import opened
from benchmarks.floor import body
from benchmarks.measure import (
    Child,
    Figure,
    Plan,
    emptied,
    percentile,
    resident_bytes,
    scratch,
    settled,
    until,
    url,
)
from stepwell import App, Step, Workflow

_AT_ONCE: Final = 1_000
_LONE: Final = 10
_MB: Final = 1024 * 1024


def sleepers(plan: Plan) -> list[Figure]:
    """100,000 sleeping executions: memory of the worker that parked them and of one that finds them; waking."""
    count, together = plan.size(100_000, least=100), plan.size(10_000, least=10)
    parked: list[float] = []
    found: list[float] = []
    lone: list[float] = []
    crowd: list[float] = []
    rates: list[float] = []
    for _ in plan.few(2):
        with scratch() as folder:
            path = str(folder / "bench.db")
            with Child("sleepers:park", path=path, count=count) as child:
                memory, seconds = child.hear()
            parked.append(memory / _MB)
            rates.append(count / seconds)
            with Child("sleepers:wake", path=path, together=together) as child:
                memory, delays, last = child.hear()
            found.append(memory / _MB)
            lone.append(percentile(delays, 0.5) * 1000)
            crowd.append(last)
    return [
        Figure(f"{count:,} sleeping, above idle: the worker that parked them", "MB", parked, at_most=20),
        Figure(f"{count:,} sleeping, above idle: a worker that finds them", "MB", found, at_most=20),
        Figure(f"{count:,} sleeping: a lone one starts late by", "ms", lone, at_most=100),
        Figure(f"{count:,} sleeping: {together:,} due together have started after", "s", crowd, at_most=2),
        Figure("parking", "executions/s", rates),
    ]


def resident(plan: Plan) -> list[Figure]:
    """What an execution takes while it is in memory, held in a step's body."""
    count = plan.size(5_000, least=200)
    sizes: list[float] = []
    for _ in plan.few(3):
        with scratch() as folder, Child("sleepers:hold", path=str(folder / "bench.db"), count=count) as child:
            sizes.append(child.hear() / count / 1024)
    return [Figure(f"resident execution, mean of {count:,}", "KB", sizes, at_most=10)]


class _Bed:
    """Executions that sleep for an hour and then wake in a step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.app = App("bench", database=url(path))
        self.woken_at: list[float] = []
        self.nap: Workflow[str, None]
        woken_at = self.woken_at

        async def wake() -> None:
            woken_at.append(time.time())

        @self.app.workflow
        async def nap(step: Step, duration: str) -> None:
            await step.sleep("nap", duration)
            await step.run("wake", wake)

        self.nap = nap

    async def woken(self, count: int) -> None:
        await until(lambda: len(self.woken_at) == count)


async def park(channel: Channel, path: str, count: int) -> None:
    """Park executions; tell by how much memory has grown since nothing had been done yet."""
    bed = _Bed(Path(path))
    async with bed.app.running(drain_timeout=0) as worker:
        await settled(worker)
        gc.collect()
        before = resident_bytes()
        began = time.perf_counter()
        for first in range(0, count, _AT_ONCE):
            naps = (bed.nap.trigger("1 hour") for _ in range(min(_AT_ONCE, count - first)))
            await asyncio.gather(*naps)
            await emptied(worker)
        seconds = time.perf_counter() - began
        gc.collect()
        channel.say((resident_bytes() - before, seconds))


async def wake(channel: Channel, path: str, together: int) -> None:
    """Find the sleepers of another worker and wake some, as if their hour had passed."""
    bed = _Bed(Path(path))
    empty = _Bed(Path(path).with_name("empty.db"))
    async with empty.app.running() as worker:
        await settled(worker)
        gc.collect()
        idle = resident_bytes()
    async with bed.app.running() as worker:
        await settled(worker)
        await asyncio.sleep(0.5)
        gc.collect()
        memory = resident_bytes() - idle
        delays: list[float] = []
        for _ in range(_LONE):
            due = _make_due(bed.path, 1, seconds=0.3)
            await bed.woken(len(delays) + 1)
            delays.append(bed.woken_at[-1] - due)
        due = _make_due(bed.path, together, seconds=1.0)
        await bed.woken(_LONE + together)
        last = bed.woken_at[-1] - due
        if min(bed.woken_at[_LONE:]) < due:
            raise RuntimeError("An execution has woken too early.")
        await emptied(worker)
        channel.say((memory, delays, last))


async def hold(channel: Channel, path: str, count: int) -> None:
    """Keep executions in the body of their second step; tell by how much memory has grown."""
    app = App("bench", database=url(Path(path)))
    release = asyncio.Event()
    held = 0

    async def wait() -> None:
        nonlocal held
        held += 1
        await release.wait()

    @app.workflow
    async def work(step: Step, number: int) -> None:
        await step.run("first", body, number)
        await step.run("wait", wait)

    async with app.running(concurrency=2 * count) as worker:
        await settled(worker)
        # The growth between two full houses: what the first of all needs once is not counted.
        sizes: list[int] = []
        for expected in (count // 10, count + count // 10):
            await asyncio.gather(*(work.trigger(number) for number in range(expected - held)))
            await until(lambda expected=expected: held == expected)
            gc.collect()
            sizes.append(resident_bytes())
        channel.say(sizes[1] - sizes[0])
        release.set()
        await emptied(worker)


def _make_due(path: Path, count: int, *, seconds: float) -> float:
    """Move the end of sleep of the next executions to a moment from now, and return that moment."""
    due = time.time() + seconds
    with opened(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        sleeping = "SELECT id FROM executions WHERE status = 'sleeping' AND owner IS NULL ORDER BY id LIMIT ?"
        ids = connection.execute(sleeping, (count,)).fetchall()
        for table, key in (("executions", "id"), ("steps", "execution_id")):
            connection.executemany(
                f"UPDATE {table} SET wake_at = ? WHERE {key} = ? AND wake_at IS NOT NULL",
                [(int(due * 1e6), id) for (id,) in ids],
            )
        connection.execute("COMMIT")
    if len(ids) < count:
        raise RuntimeError(f"Only {len(ids):,} executions were asleep.")
    return due
