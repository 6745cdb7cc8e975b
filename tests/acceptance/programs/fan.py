"""Fan-outs of all kinds, one after the other; items take their time, some sleep, some fail at first."""

from __future__ import annotations

import asyncio
import os

from stepwell import App, Step, current_step
from tests.acceptance.programs import kit
from tests.acceptance.programs.kit import act, act_after, act_in_thread, fresh, seen

app = App("fan", database=kit.database())
ITEMS = 40


async def item(number: int) -> int:
    match number % 4:
        case 0:
            return await act(0.005)
        case 1:
            return await act_after(1, 0.005)
        case 2:
            return act_in_thread()
        case _:
            kit.note("begin")
            one = await current_step().run("inner", act, 0.005)
            await current_step().sleep(0.02)
            value = (one + fresh()) % 2**52
            kit.note("end", value=value)
            return value


def in_thread(number: int) -> int:
    return act_in_thread(0.003)


async def effect(number: int) -> None:
    kit.note("begin")
    await asyncio.sleep(0.003)
    kit.note("end", value=None)


async def part(numbers: list[int]) -> int:
    return await act(0.003)


@app.workflow
async def fan(step: Step, number: int) -> list[list[int]]:
    items = range(ITEMS)
    mapped = await step.map("map", items, item, concurrency=8, retry_delay=0.01)
    threads = await step.map("threads", items, in_thread, concurrency=8)
    await step.for_each("effects", items, effect, concurrency=8)
    parts = await step.batch("parts", items, part, batch_size=7)
    for name, values in (("map", mapped), ("threads", threads), ("parts", parts)):
        for index, value in enumerate(values):
            await seen(f"{name}/{index}", _given(value))
    return [mapped, threads, parts]


async def _given(value: int) -> int:
    return value


if __name__ == "__main__":
    kit.main(app, concurrency=int(os.environ.get("CONCURRENCY", "1000")))
