"""A body that emits slowly: first what every process says, then what only this one does."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from stepwell import App, Step, current_step
from tests.acceptance.programs import kit

COMMON: Final = 40
ALL: Final = 80

app = App("talk", database=kit.database())


async def talk() -> int:
    kit.note("begin")
    for number in range(ALL):
        await current_step().emit("words", f"{number}" if number < COMMON else f"{number} of {os.getpid()}")
        await asyncio.sleep(0.005)
    value = kit.fresh()
    kit.note("end", value=value)
    return value


@app.workflow
async def talking(step: Step) -> int:
    await step.emit("words", "begin")
    value = await kit.seen("talk", step.run("talk", talk))
    await step.emit("words", "end")
    return value


if __name__ == "__main__":
    kit.main(app)
