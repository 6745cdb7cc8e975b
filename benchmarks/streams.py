"""Streams: what emitting costs, and how long a value takes to whoever follows."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.database import opened
from benchmarks.measure import Figure, Plan, emptied, percentile, run, scratch, settled, url
from stepwell import App, Step, SyncStep, current_step


def emit(plan: Plan) -> list[Figure]:
    """10,000 values from one body, followed live: until all are durable, and until all are read."""
    count = plan.size(10_000)
    figures: list[Figure] = []
    for title, body in (("async", _body), ("sync", _body_in_thread)):
        durable: list[float] = []
        read: list[float] = []
        for _ in range(plan.rounds + 1):
            with scratch() as folder:
                ended, followed = run(_emit(folder / "bench.db", partial(body, count), count))
            durable.append(ended * 1000)
            read.append(followed * 1000)
        figures += [
            Figure(f"emit, {title} body, {count:,} values: durable", "ms", durable[1:], at_most=500),
            Figure(f"emit, {title} body, {count:,} values: followed to the end", "ms", read[1:]),
        ]
    with scratch() as folder:
        delays = run(_delays(folder / "bench.db", plan.size(300, least=20)))
    return [
        *figures,
        Figure("emit: one value to its follower, median", "ms", [percentile(delays, 0.5)]),
        Figure("emit: one value to its follower, p99", "ms", [percentile(delays, 0.99)]),
    ]


async def _body(count: int) -> None:
    step = current_step()
    for number in range(count):
        await step.emit("tokens", f"token {number}")


def _body_in_thread(count: int) -> None:
    step = current_step(SyncStep)
    for number in range(count):
        step.emit("tokens", f"token {number}")


async def _emit(path: Path, body: Any, count: int) -> tuple[float, float]:
    app = App("bench", database=url(path))

    @app.workflow
    async def work(step: Step) -> None:
        await step.run("emit", body)

    async with app.running() as worker:
        await settled(worker)
        began = time.perf_counter()
        execution = await work.trigger()
        followed = [item.offset async for item in execution.stream("tokens")]
        read = time.perf_counter() - began
        await emptied(worker)
        began = time.perf_counter()
        await (await work.trigger()).result()
        ended = time.perf_counter() - began
    assert followed == list(range(1, count + 1))
    with opened(path) as connection:
        assert connection.execute("SELECT COUNT(*) FROM streams").fetchone() == (2 * count,)
    return ended, read


async def _delays(path: Path, count: int) -> list[float]:
    """Milliseconds from `emit` to the follower, in the same process, one value at a time."""
    app = App("bench", database=url(path))

    @app.workflow
    async def work(step: Step) -> list[float]:
        execution, delays = app.get_execution(step.execution_id), list[float]()

        async def one_by_one() -> list[float]:
            followed = aiter(execution.stream("tokens"))
            for number in range(count):
                began = time.perf_counter()
                await current_step().emit("tokens", number)
                await anext(followed)
                delays.append((time.perf_counter() - began) * 1000)
            return delays

        return await step.run("emit", one_by_one)

    async with app.running() as worker:
        await settled(worker)
        return await (await work.trigger()).result()
