"""Bodies that end within the grace of a worker that is asked to leave, and some that do not."""

from __future__ import annotations

import asyncio
import os

from stepwell import App, Step
from tests.acceptance.programs import kit
from tests.acceptance.programs.kit import act, act_in_thread, seen

app = App("drain", database=kit.database())
LONG = float(os.environ.get("LONG", "0.05"))


@app.workflow
async def ends_in_time(step: Step, number: int) -> int:
    first = await seen("first", step.run("first", act, 0.5))
    return first + await seen("second", step.run("second", act, 0.02))


@app.workflow
async def ends_in_time_in_thread(step: Step, number: int) -> int:
    first = await seen("first", step.run("first", act_in_thread, 0.5))
    return first + await seen("second", step.run("second", act, 0.02))


@app.workflow
async def too_long(step: Step, number: int) -> int:
    return await seen("long", step.run("long", act, LONG))


@app.workflow
async def too_long_in_thread(step: Step, number: int) -> int:
    return await seen("long", step.run("long", act_in_thread, LONG))


@app.workflow
async def sleeps(step: Step, number: int) -> int:
    await step.sleep("nap", 2)
    kit.note("woke", of="nap")
    return await seen("after", step.run("after", act))


@app.workflow
async def branches(step: Step, number: int) -> int:
    async def two_steps() -> int:
        one = await seen("short", step.run("short", act, 0.1))
        return one + await seen("next", step.run("next", act))

    one, two = await asyncio.gather(two_steps(), seen("longer", step.run("longer", act, 0.4)))
    return one + two


@app.workflow
async def many(step: Step, number: int) -> int:
    total = 0
    for n in range(8):
        body = act if (n + number) % 2 else act_in_thread
        total += await seen(f"step-{n}", step.run(f"step-{n}", body, 0.05 + number * 0.005))
    return total


if __name__ == "__main__":
    kit.main(app, drain_timeout=float(os.environ.get("GRACE", "1")))
