"""Retries with backoff, timeouts, and bodies that a crash interrupts."""

from __future__ import annotations

import asyncio
import os

from stepwell import App, Step, current_step
from stepwell._engine import resting
from tests.acceptance.programs import kit
from tests.acceptance.programs.kit import act, act_after, seen

app = App("patience", database=kit.database())

if seconds := os.environ.get("STAYS_IN_MEMORY"):
    resting.STAYS_IN_MEMORY_US = int(float(seconds) * 1_000_000)


@app.workflow
async def backing_off(step: Step, delay: float) -> int:
    return await seen(
        "try", step.run("try", act_after, 2, retries=5, retry_delay=delay, backoff="constant", max_delay=60)
    )


@app.workflow
async def limited(step: Step, number: int) -> int:
    await step.run("endless", act, 60)
    return await step.run("never", act)


async def hang_once() -> int:
    """Fails at first, then hangs in the second attempt, as long as the process that began it lives."""
    kit.note("begin")
    if current_step().attempt == 1:
        kit.note("fail")
        raise ConnectionError("attempt 1")
    if not await step_was_interrupted():
        await asyncio.sleep(60)
    value = kit.fresh()
    kit.note("end", value=value)
    return value


async def step_was_interrupted() -> bool:
    return current_step()._runner.epoch > 1


@app.workflow
async def interrupted(step: Step, number: int) -> int:
    return await seen("hang", step.run("hang", hang_once, retries=1, retry_delay=0.05))


if __name__ == "__main__":
    kit.main(app)
