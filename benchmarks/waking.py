"""What wakes an execution from outside: events, in this process and from another one, and the ends of children."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Final

from benchmarks.child import Channel
from benchmarks.measure import (
    Child,
    Figure,
    Plan,
    emptied,
    percentile,
    resident_bytes,
    run,
    scratch,
    settled,
    url,
)
from stepwell import App, Step, Workflow

_BETWEEN_SECONDS: Final = 0.06
_AT_ONCE: Final = 2_000
_MB: Final = 1024 * 1024


def events_here(plan: Plan) -> list[Figure]:
    """An event for an execution that listens outside of memory, sent by the process of the worker."""
    milliseconds: list[float] = []
    for _ in range(plan.rounds):
        with scratch() as folder:
            milliseconds.append(percentile(run(_here(folder / "bench.db", plan.size(100, least=10))), 0.5))
    return [Figure("event → listening execution, same process", "ms", milliseconds, at_most=5)]


def events_there(plan: Plan) -> list[Figure]:
    """The same, sent by another process on the same file: median and 99th percentile of each round."""
    medians: list[float] = []
    tails: list[float] = []
    for _ in plan.few(2):
        with scratch() as folder, Child("waking:serve", path=str(folder / "bench.db")) as child:
            child.hear()
            samples = run(_there(folder / "bench.db", plan.size(200, least=5)))
        medians.append(percentile(samples, 0.5))
        tails.append(percentile(samples, 0.99))
    return [
        Figure("event → listening execution, other process: median", "ms", medians, at_most=50),
        Figure("event → listening execution, other process: p99", "ms", tails, at_most=100),
    ]


def listeners(plan: Plan) -> list[Figure]:
    """100,000 executions that listen: memory of the worker that parked them."""
    count = plan.size(100_000, least=100)
    parked: list[float] = []
    for _ in plan.few(2):
        with scratch() as folder, Child("waking:park", path=str(folder / "bench.db"), count=count) as child:
            parked.append(child.hear() / _MB)
    return [Figure(f"{count:,} listening, above idle", "MB", parked, at_most=20)]


def children(plan: Plan) -> list[Figure]:
    """A parent that executes 10,000 children at once: how often it is replayed, and how long all of it takes."""
    count = plan.size(10_000, least=50)
    replays: list[float] = []
    seconds: list[float] = []
    for _ in plan.few(3):
        with scratch() as folder:
            times, took = run(_family(folder / "bench.db", count))
        replays.append(times - 1)
        seconds.append(took)
    return [
        Figure(f"a parent of {count:,} children", "replays", replays, at_most=20),
        Figure(f"a parent of {count:,} children", "s", seconds),
    ]


async def serve(channel: Channel, path: str) -> None:
    """The worker of the other process."""
    app, _ = _app(Path(path))
    async with app.running() as worker:
        await settled(worker)
        channel.say("ready")
        await asyncio.Event().wait()


async def park(channel: Channel, path: str, count: int) -> None:
    """Park `count` listening executions; tell how much memory they took."""
    app, listener = _app(Path(path))
    async with app.running() as worker:
        # What the first ones load and allocate once is not the price of the others.
        await listener.trigger_many([None] * _AT_ONCE)
        await emptied(worker)
        before = resident_bytes()
        for start in range(0, count, _AT_ONCE):
            await listener.trigger_many([None] * min(_AT_ONCE, count - start))
            await emptied(worker)
        channel.say(resident_bytes() - before)


async def _here(path: Path, samples: int) -> list[float]:
    app, listener = _app(path)
    waited: list[float] = []
    async with app.running() as worker:
        for _ in range(samples):
            execution = await listener.trigger()
            await emptied(worker)
            began = time.monotonic()
            await execution.send_event("go")
            waited.append((await execution.result() - began) * 1000)
    return waited


async def _there(path: Path, samples: int) -> list[float]:
    app, listener = _app(path)
    rng = random.Random(1)
    waited: list[float] = []
    async with app.connected():
        for _ in range(samples):
            execution = await listener.trigger()
            async for info in execution.watch():
                if info.status == "listening":
                    break
            # At any phase of the other side's polling.
            await asyncio.sleep(_BETWEEN_SECONDS * (1 + rng.random()))
            began = time.monotonic()
            await execution.send_event("go")
            waited.append((await execution.result() - began) * 1000)
    return waited


async def _family(path: Path, count: int) -> tuple[int, float]:
    app, entered = App("bench", database=url(path)), 0

    async def double(number: int) -> int:
        return number * 2

    @app.workflow
    async def child(step: Step, number: int) -> int:
        return await step.run("double", double, number)

    @app.workflow
    async def parent(step: Step) -> int:
        nonlocal entered
        entered += 1
        return sum(await asyncio.gather(*(step.execute_workflow(f"c{i}", child, i) for i in range(count))))

    async with app.running():
        began = time.perf_counter()
        assert await (await parent.trigger()).result() == count * (count - 1)
        return entered, time.perf_counter() - began


def _app(path: Path) -> tuple[App, Workflow[None, float]]:
    app = App("bench", database=url(path))

    async def look() -> float:
        # One clock for all processes of the machine.
        return time.monotonic()

    @app.workflow
    async def listener(step: Step) -> float:
        await step.listen("go")
        return await step.run("look", look)

    return app, listener
