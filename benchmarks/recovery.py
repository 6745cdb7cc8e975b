"""After a crash: how soon ten thousand executions run again, and how fast recorded steps are replayed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.child import Channel
from benchmarks.database import opened
from benchmarks.floor import body
from benchmarks.measure import Child, Figure, Plan, emptied, run, scratch, settled, until, url
from stepwell import App, Step, Workflow
from stepwell._worker import reaper
from stepwell.store.records import WorkerRow
from stepwell.store.sqlite.connection import query

_RECORDED: Final = 6


class _Arrivals:
    """The last step of each execution: it holds everybody until all have come."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self.count = 0
        self.complete = asyncio.Event()
        self.at = 0.0
        self.repeated = 0

    async def arrive(self) -> None:
        self.count += 1
        if self.count == self._expected:
            self.at = time.monotonic()
            self.complete.set()
        await self.complete.wait()

    async def body(self, number: int) -> dict[str, int]:
        self.repeated += 1
        return await body(number)


def recovery(plan: Plan) -> list[Figure]:
    """A worker is killed with 10,000 executions in flight; another one on the same host continues them."""
    count = plan.size(10_000)
    seen: list[float] = []
    killed: list[float] = []
    for _ in plan.few(3):
        with scratch() as folder, Child("recovery:victim", path=str(folder / "bench.db"), count=count) as child:
            child.hear()
            since_seen, since_kill = run(_survive(folder / "bench.db", count, child))
        seen.append(since_seen)
        killed.append(since_kill)
    title = f"recovery of {count:,} x {_RECORDED} steps"
    return [
        Figure(f"{title}: since the death was seen", "s", seen, at_most=1),
        Figure(f"{title}: since the kill", "s", killed),
    ]


def replay(plan: Plan) -> list[Figure]:
    """One execution with 10,000 recorded steps is taken over by a worker that starts."""
    steps = plan.size(10_000)
    whole: list[float] = []
    function: list[float] = []
    for _ in range(plan.rounds):
        with scratch() as folder:
            since_start, in_function = run(_replay(folder / "bench.db", steps))
        whole.append(since_start * 1000)
        function.append(in_function * 1000)
    return [
        Figure(f"replay of {steps:,} steps, from the worker's start", "ms", whole, at_most=300),
        Figure(f"replay of {steps:,} steps, the function alone", "ms", function),
    ]


async def victim(channel: Channel, path: str, count: int) -> None:
    """The worker that is killed: all its executions have recorded their steps and wait in the next one."""
    arrivals = _Arrivals(count + 1)  # one more than will come
    app, work = _app(Path(path), arrivals)
    async with app.running(concurrency=count) as worker:
        await settled(worker)
        await asyncio.gather(*(work.trigger(number) for number in range(count)))
        await until(lambda: arrivals.count == count)
        channel.say("ready")
        await asyncio.Event().wait()


async def _survive(path: Path, count: int, child: Child) -> tuple[float, float]:
    arrivals = _Arrivals(count)
    app, work = _app(path, arrivals)
    with _death_seen() as seen_at:
        async with app.running(concurrency=count) as worker:
            await settled(worker)
            killed_at = time.monotonic()
            child.kill()
            await arrivals.complete.wait()
            await emptied(worker)
        if arrivals.repeated:
            raise RuntimeError(f"{arrivals.repeated} recorded steps of {work.name} ran again.")
    return arrivals.at - seen_at[0], arrivals.at - killed_at


@contextmanager
def _death_seen() -> Generator[list[float]]:
    """When the reaper first saw a process gone."""
    seen_at: list[float] = []
    is_gone = reaper.is_gone

    def look(worker: WorkerRow) -> bool:
        gone = is_gone(worker)
        if gone:
            seen_at.append(time.monotonic())
        return gone

    reaper.is_gone = look
    try:
        yield seen_at
    finally:
        reaper.is_gone = is_gone


def _app(path: Path, arrivals: _Arrivals) -> tuple[App, Workflow[int, None]]:
    app = App("bench", database=url(path))

    @app.workflow
    async def work(step: Step, number: int) -> None:
        for part in range(_RECORDED):
            await step.run(f"step-{part}", arrivals.body, part)
        await step.run("arrive", arrivals.arrive)

    return app, work


async def _replay(path: Path, steps: int) -> tuple[float, float]:
    app = App("bench", database=url(path))
    done = asyncio.Event()
    times: list[float] = []

    @app.workflow
    async def work(step: Step) -> None:
        times.append(time.perf_counter())
        for number in range(steps):
            await step.run(f"step-{number}", body, number)
        times.append(time.perf_counter())
        done.set()

    async with app.connected():
        execution = await work.trigger()
    _record_steps(path, execution.id, steps)
    began = time.perf_counter()
    async with app.running() as worker:
        await done.wait()
        await emptied(worker)
    return times[1] - began, times[1] - times[0]


def _record_steps(path: Path, execution_id: str, steps: int) -> None:
    now = time.time_ns() // 1000
    rows: list[tuple[object, ...]] = []
    for number in range(steps):
        output = msgspec.json.encode({"number": number}).decode()
        place = (execution_id, 1, 1, f"step-{number}", number + 1)
        rows.append((*place, "run", "completed", 1, f"[{number}]", output, None, now + number, now + number, 0))
    with opened(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(query("step_finished"), rows)
        connection.execute("COMMIT")
