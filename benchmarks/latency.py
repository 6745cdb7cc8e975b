"""From a trigger to the first step, in this process and in another one."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Final

from benchmarks.child import Channel
from benchmarks.database import commits_in_wal
from benchmarks.measure import Child, Figure, Plan, percentile, run, scratch, settled, url
from stepwell import App, Step, Workflow

_BETWEEN_SECONDS: Final = 0.06


def trigger_here(plan: Plan) -> list[Figure]:
    """A worker in the process of the trigger: how long until the first step runs, and after how many commits."""
    milliseconds: list[float] = []
    commits: list[float] = []
    for _ in range(plan.rounds):
        with scratch() as folder:
            samples = run(_here(folder / "bench.db", plan.size(100, least=10)))
        milliseconds.append(percentile([ms for ms, _ in samples], 0.5))
        commits.append(percentile([count for _, count in samples], 0.5))
    return [
        Figure("trigger → first step, same process", "ms", milliseconds),
        Figure("trigger → first step, same process", "commits", commits, at_most=2),
    ]


def trigger_there(plan: Plan) -> list[Figure]:
    """A worker in another process on the same file: median and 99th percentile of each round."""
    medians: list[float] = []
    tails: list[float] = []
    for _ in plan.few(2):
        with scratch() as folder, Child("latency:serve", path=str(folder / "bench.db")) as child:
            child.hear()
            samples = run(_there(folder / "bench.db", plan.size(100, least=5)))
        medians.append(percentile(samples, 0.5))
        tails.append(percentile(samples, 0.99))
    return [
        Figure("trigger → first step, other process: median", "ms", medians, at_most=100),
        Figure("trigger → first step, other process: p99", "ms", tails, at_most=100),
    ]


async def serve(channel: Channel, path: str) -> None:
    """The worker of the other process."""
    app, _ = _app(Path(path))
    async with app.running() as worker:
        await settled(worker)
        channel.say("ready")
        await asyncio.Event().wait()


async def _here(path: Path, samples: int) -> list[tuple[float, int]]:
    app = App("bench", database=url(path))
    found: list[tuple[float, int]] = []

    async def look(began: float, commits_before: int) -> None:
        milliseconds = (time.monotonic() - began) * 1000
        found.append((milliseconds, commits_in_wal(path) - commits_before))

    @app.workflow
    async def first(step: Step, before: tuple[float, int]) -> None:
        await step.run("look", look, *before)

    async with app.running() as worker:
        await settled(worker)
        for _ in range(samples):
            commits_before = commits_in_wal(path)
            execution = await first.trigger((time.monotonic(), commits_before))
            await execution.result()
    return found


async def _there(path: Path, samples: int) -> list[float]:
    app, first = _app(path)
    rng = random.Random(1)
    waited: list[float] = []
    async with app.connected():
        for _ in range(samples):
            # At any phase of the other side's polling.
            await asyncio.sleep(_BETWEEN_SECONDS * rng.random())
            began = time.monotonic()
            ran_at = await (await first.trigger()).result()
            waited.append((ran_at - began) * 1000)
    return waited


def _app(path: Path) -> tuple[App, Workflow[None, float]]:
    app = App("bench", database=url(path))

    async def look() -> float:
        # One clock for all processes of the machine.
        return time.monotonic()

    @app.workflow
    async def first(step: Step) -> float:
        return await step.run("look", look)

    return app, first
