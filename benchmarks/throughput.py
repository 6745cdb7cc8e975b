"""Many steps in one process, as a share of the floor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import database, floor
from benchmarks.floor import body, body_in_thread
from benchmarks.measure import Figure, Plan, emptied, ratios, run, scratch, settled, url
from stepwell import App, Step


def floor_alone(plan: Plan) -> list[Figure]:
    """The floor itself: rows a second, side by side and as a fan-out; time per commit one after the other."""
    many, steps = plan.size(1_000), 10
    sequential = plan.size(1_000)
    wide = plan.size(10_000)
    rates: list[float] = []
    commits: list[float] = []
    fans: list[float] = []
    for _ in range(plan.rounds):
        rates.append(many * steps / _timed(partial(floor.run, executions=many, steps=steps)))
        commits.append(_timed(partial(floor.run, executions=1, steps=sequential)) / (sequential + 2) * 1e6)
        fans.append(wide / _timed(partial(floor.fan_out, steps=wide)))
    return [
        Figure(f"floor, {many:,} x {steps} steps", "rows/s", rates, at_least=floor.WARN_BELOW),
        Figure("floor, one after the other", "µs a commit", commits),
        Figure(f"floor, fan-out of {wide:,}", "rows/s", fans),
    ]


def async_steps(plan: Plan) -> list[Figure]:
    """Executions side by side with async bodies."""
    return _side_by_side(plan, "async bodies", body, steps=10, full=1_000, at_least=0.5)


def sync_steps(plan: Plan) -> list[Figure]:
    """The same with plain bodies, in threads."""
    return _side_by_side(plan, "sync bodies", body_in_thread, steps=10, full=1_000, at_least=0.2)


def starts(plan: Plan) -> list[Figure]:
    """Executions of one step: what starting and ending costs."""
    return _side_by_side(plan, "starts", body, steps=1, full=5_000, at_least=None)


def sequential(plan: Plan) -> list[Figure]:
    """One execution whose steps run one after the other: each waits for its own commit."""
    steps = plan.size(1_000)
    bare: list[float] = []
    ours: list[float] = []
    # Twice the rounds, for the disk is moodier than the processor.
    for _ in range(2 * plan.rounds + 1):
        bare.append(_timed(partial(floor.run, executions=1, steps=steps)) / (steps + 2) * 1e6)
        ours.append(_timed(partial(_run, fn=body, executions=1, steps=steps)) / (steps + 2) * 1e6)
    return [
        Figure(f"sequential, {steps:,} steps: floor", "µs a commit", bare[1:]),
        Figure(f"sequential, {steps:,} steps: stepwell", "µs a commit", ours[1:]),
        Figure("sequential: in commits of the floor", "times", ratios(ours[1:], bare[1:]), at_most=1.3),
    ]


def fan_out(plan: Plan) -> list[Figure]:
    """One execution that gathers its steps."""
    wide = plan.size(10_000)
    bare: list[float] = []
    ours: list[float] = []
    for _ in _warmed_up(plan):
        bare.append(wide / _timed(partial(floor.fan_out, steps=wide)))
        ours.append(wide / _timed(partial(_fan_out, steps=wide)))
    return _compared(f"gather of {wide:,}", "steps/s", bare[1:], ours[1:], at_least=None)


def mapping(plan: Plan) -> list[Figure]:
    """One execution that maps its items, with few and with many of them in flight."""
    wide = plan.size(10_000)
    lanes = [1_000, 100, 10]
    bare: list[float] = []
    ours: dict[int, list[float]] = {concurrency: [] for concurrency in lanes}
    for _ in _warmed_up(plan):
        bare.append(wide / _timed(partial(floor.fan_out, steps=wide)))
        for concurrency in lanes:
            ours[concurrency].append(wide / _timed(partial(_map, items=wide, concurrency=concurrency)))
    most, *fewer = lanes
    figures = _compared(f"map of {wide:,}, {most:,} at a time", "items/s", bare[1:], ours[most][1:], at_least=0.5)
    return figures + [Figure(f"map of {wide:,}, {few} at a time: stepwell", "items/s", ours[few][1:]) for few in fewer]


def _side_by_side(
    plan: Plan,
    title: str,
    fn: Callable[[int], object],
    *,
    steps: int,
    full: int,
    at_least: float | None,
) -> list[Figure]:
    executions = plan.size(full)
    bare: list[float] = []
    ours: list[float] = []
    for _ in _warmed_up(plan):
        bare.append(executions * steps / _timed(partial(floor.run, executions=executions, steps=steps)))
        ours.append(executions * steps / _timed(partial(_run, fn=fn, executions=executions, steps=steps)))
    return _compared(f"{title}, {executions:,} x {steps}", "steps/s", bare[1:], ours[1:], at_least=at_least)


def _compared(title: str, unit: str, bare: list[float], ours: list[float], *, at_least: float | None) -> list[Figure]:
    return [
        Figure(f"{title}: floor", unit, bare),
        Figure(f"{title}: stepwell", unit, ours),
        Figure(f"{title}: share of the floor", "", ratios(ours, bare), at_least=at_least),
    ]


def _warmed_up(plan: Plan) -> range:
    """One round more than is counted: caches fill in the first."""
    return range(plan.rounds + 1)


def _timed(work: Callable[[Path], Coroutine[Any, Any, float]]) -> float:
    with scratch() as folder:
        return run(work(folder / "bench.db"))


async def _run(path: Path, *, fn: Callable[[int], object], executions: int, steps: int) -> float:
    app = App("bench", database=url(path))
    running = executions
    last_ended = asyncio.Event()

    @app.workflow
    async def work(step: Step, count: int) -> None:
        nonlocal running
        for number in range(count):
            await step.run(f"step-{number}", fn, number)
        running -= 1
        if not running:
            last_ended.set()

    async with app.running() as worker:
        await settled(worker)
        began = time.perf_counter()
        await asyncio.gather(*(work.trigger(steps) for _ in range(executions)))
        await last_ended.wait()
        await emptied(worker)
        seconds = time.perf_counter() - began
    database.check(path, completed=executions, steps=executions * steps)
    return seconds


async def _fan_out(path: Path, *, steps: int) -> float:
    app = App("bench", database=url(path))

    @app.workflow
    async def work(step: Step, count: int) -> None:
        await asyncio.gather(*(step.run(f"step-{number}", body, number) for number in range(count)))

    async with app.running() as worker:
        await settled(worker)
        began = time.perf_counter()
        await (await work.trigger(steps)).result()
        seconds = time.perf_counter() - began
    database.check(path, completed=1, steps=steps)
    return seconds


async def _map(path: Path, *, items: int, concurrency: int) -> float:
    app = App("bench", database=url(path))

    @app.workflow
    async def work(step: Step, count: int) -> None:
        await step.map("map", range(count), body, concurrency=concurrency)

    async with app.running() as worker:
        await settled(worker)
        began = time.perf_counter()
        await (await work.trigger(items)).result()
        seconds = time.perf_counter() - began
    database.check(path, completed=1, steps=items + 1)
    return seconds
