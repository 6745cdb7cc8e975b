"""Healthy executions, and one that kills its own process."""

from __future__ import annotations

import asyncio
import os
import signal

from stepwell import App, Step
from tests.acceptance.programs import kit
from tests.acceptance.programs.kit import act, seen

app = App("poison", database=kit.database())


async def kill_yourself() -> None:
    kit.note("begin")
    os.kill(os.getpid(), signal.SIGKILL)


@app.workflow
async def healthy(step: Step, number: int) -> int:
    total = 0
    for n in range(4):
        total += await seen(f"step-{n}", step.run(f"step-{n}", act, 0.03))
        await step.sleep(f"nap-{n}", 0.05)
    return total


@app.workflow
async def poison(step: Step) -> None:
    await step.run("poison", kill_yourself)


@app.workflow
async def slow_poison(step: Step) -> None:
    async def kill_later() -> None:
        kit.note("begin")
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)

    await step.run("poison", kill_later)


if __name__ == "__main__":
    kit.main(app)
