"""A workflow of everything: steps in a row, inside each other, side by side, retries, short sleeps, within and race."""

from __future__ import annotations

import asyncio
import os

from stepwell import App, Step, StepTimeoutError, current_step
from tests.acceptance.programs import kit
from tests.acceptance.programs.kit import act, act_after, act_in_thread, seen

app = App("journey", database=kit.database())

EXPECTED_STEPS = {"first", "left", "right", "flaky", "outer", "quick-one", "quick-two", "racer", "last"}


async def outer() -> int:
    step = current_step()
    kit.note("begin")
    one = await step.run("inner-1", act, 0.005)
    await step.sleep("inner-nap", 0.05)
    two, three = await asyncio.gather(step.run("inner-2", act, 0.01), step.run("inner-3", act_in_thread, 0.005))
    value = (one + two + three) % 2**52
    kit.note("end", value=value)
    return value


async def hurried(step: Step) -> int:
    one = await step.run("quick-one", act, 0.005)
    return (one + await step.run("quick-two", act, 0.005)) % 2**52


async def dawdle(step: Step, name: str) -> int:
    await step.sleep(f"{name}-nap", 30)
    return await step.run(f"{name}-never", act)


@app.workflow(retries=3)
async def journey(step: Step, number: int) -> dict[str, int]:
    out: dict[str, int] = {}
    out["first"] = await seen("first", step.run("first", act, 0.01))
    await step.sleep("nap", 0.1)
    kit.note("woke", of="nap")
    out["left"], out["right"], out["flaky"] = await asyncio.gather(
        seen("left", step.run("left", act, 0.02)),
        seen("right", step.run("right", act_in_thread, 0.01)),
        seen("flaky", step.run("flaky", act_after, 2, 0.005, retry_delay=0.03)),
    )
    out["outer"] = await seen("outer", step.run("outer", outer))
    out["quick"] = await seen("quick", step.within("quick", 20, hurried(step)))
    try:
        await step.within("slow", 0.1, dawdle(step, "slow"))
    except StepTimeoutError:
        out["slow"] = -1
    winner, value = await step.race("race", fast=step.run("racer", act, 0.01), slow=dawdle(step, "loser"))
    out[winner] = value
    await step.sleep("rest", 0.05)
    kit.note("woke", of="rest")
    out["last"] = await seen("last", step.run("last", act, 0.01))
    return out


if __name__ == "__main__":
    kit.main(app, concurrency=int(os.environ.get("CONCURRENCY", "1000")))
