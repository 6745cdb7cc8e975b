"""What a client in another process triggers, waits for and cancels."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from stepwell import App, Step
from tests.acceptance.programs import kit
from tests.acceptance.programs.kit import act, act_in_thread

app = App("remote", database=kit.database())


@dataclass
class Order:
    id: str
    amount: int


@dataclass
class Receipt:
    order: Order
    total: int


@app.workflow
async def quick(step: Step, order: Order) -> Receipt:
    await step.run("only", act)
    return Receipt(order, order.amount + 1)


async def endless() -> None:
    kit.note("begin")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        kit.note("cancelled")
        raise


@app.workflow
async def long_body(step: Step) -> None:
    await step.run("endless", endless)
    await step.run("never", act)


@app.workflow
async def long_body_that_swallows(step: Step) -> str:
    for n in range(3):
        try:
            await step.run(f"endless-{n}", endless)
        except BaseException:  # noqa: S112 - what must not help
            continue
    return "swallowed"


@app.workflow
async def side_by_side(step: Step) -> None:
    await asyncio.gather(*(step.run(f"endless-{n}", endless) for n in range(5)), step.sleep("nap", 60))
    await step.run("never", act)


@app.workflow
async def long_thread(step: Step) -> None:
    await step.run("thread", act_in_thread, 1.0)
    await step.run("never", act)


@app.workflow
async def sleeper(step: Step, seconds: float) -> None:
    await step.sleep("nap", seconds)
    await step.run("never", act)


@app.workflow
async def failing(step: Step) -> None:
    raise ValueError("so it is")


if __name__ == "__main__":
    kit.main(app)
