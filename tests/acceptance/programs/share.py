"""Executions of ten short steps; several workers share them."""

from __future__ import annotations

import os

from stepwell import App, Step
from tests.acceptance.programs import kit
from tests.acceptance.programs.kit import act, seen

app = App("share", database=kit.database())
PAUSE = float(os.environ.get("PAUSE", "0.03"))


@app.workflow
async def share(step: Step, number: int) -> int:
    total = 0
    for n in range(10):
        total += await seen(f"step-{n}", step.run(f"step-{n}", act, PAUSE))
        if n % 4 == 1:
            await step.sleep(f"nap-{n}", 0.05)
    return total


@app.workflow
async def one_step(step: Step, number: int) -> int:
    return await seen("only", step.run("only", act, PAUSE))


@app.workflow
async def nap_then_act(step: Step, seconds: float) -> int:
    await step.sleep("nap", seconds)
    first = await seen("after", step.run("after", act, PAUSE))
    return first + await seen("last", step.run("last", act, PAUSE))


if __name__ == "__main__":
    kit.main(app, concurrency=int(os.environ.get("CONCURRENCY", "1000")))
