"""Four processes that write to one SQLite file as fast as they can."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.child import Channel
from benchmarks.floor import body
from benchmarks.measure import Child, Figure, Plan, percentile, scratch, settled, url
from stepwell import App, Step

_PROCESSES: Final = 4
_LONGEST_MS: Final = 1_000
"""A commit that takes longer counts as starvation."""


def contention(plan: Plan) -> list[Figure]:
    """4 processes on one file, each with one execution of steps one after the other: how long a step waits."""
    tails: list[float] = []
    longest: list[float] = []
    shares: list[float] = []
    rates: list[float] = []
    for _ in plan.few(3):
        waited = _fight(plan.seconds)
        together = [ms for each in waited for ms in each]
        # The worst process counts: its p99, its longest wait, its share of an even quarter.
        tails.append(max(percentile(each, 0.99) for each in waited))
        longest.append(max(together))
        shares.append(min(map(len, waited)) / (len(together) / _PROCESSES))
        rates.append(len(together) / plan.seconds)
    title = f"{_PROCESSES} processes, one file"
    return [
        Figure(f"{title}: commit p99 of the worst process", "ms", tails, at_most=100),
        Figure(f"{title}: longest commit", "ms", longest, at_most=_LONGEST_MS),
        Figure(f"{title}: smallest part of an even share", "", shares),
        Figure(f"{title}: together", "commits/s", rates),
    ]


def _fight(seconds: float) -> list[list[float]]:
    with scratch() as folder, ExitStack() as stack:
        children: list[Child] = []
        for number in range(_PROCESSES):
            child = Child("contention:write", path=str(folder / "bench.db"), number=number, seconds=seconds)
            children.append(stack.enter_context(child))
        for child in children:
            child.hear()
        for child in children:
            child.say("go")
        return [child.hear() for child in children]


async def write(channel: Channel, path: str, number: int, seconds: float) -> None:
    """One of the processes: tells how many milliseconds each of its steps has taken."""
    app = App("bench", database=url(Path(path)))
    waited: list[float] = []

    # A name of its own, for a queued execution goes to any worker that knows its workflow.
    @app.workflow(name=f"write-{number}")
    async def work(step: Step) -> None:
        now = time.perf_counter()
        end = now + seconds
        while now < end:
            await step.run(f"step-{len(waited)}", body, len(waited))
            before, now = now, time.perf_counter()
            waited.append((now - before) * 1000)

    async with app.running() as worker:
        await settled(worker)
        channel.say("ready")
        await channel.hear()
        await (await work.trigger()).result()
        channel.say(waited)
        await asyncio.Event().wait()
