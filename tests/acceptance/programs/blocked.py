"""A body that blocks the event loop of its worker."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from contextlib import closing

from stepwell import App, Step
from stepwell._worker import pulse
from tests.acceptance.programs import kit
from tests.acceptance.programs.kit import act, seen

app = App("blocked", database=kit.database())


if faster := os.environ.get("FASTER"):
    pulse.TICK_SECONDS /= float(faster)
    pulse.WARN_SECONDS /= float(faster)
if stuck := os.environ.get("STUCK_SECONDS"):
    pulse.STUCK_SECONDS = float(stuck)


async def block_the_loop(seconds: float) -> int:
    kit.note("begin")
    if after := os.environ.get("AFTER_RENEWAL"):
        await renewal()
        await asyncio.sleep(float(after))
    time.sleep(seconds)
    value = kit.fresh()
    kit.note("end", value=value)
    return value


async def renewal() -> None:
    """Return right after the lease was renewed."""
    path = kit.database().removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as reader:
        before = reader.execute("SELECT lease_until FROM workers").fetchone()
        while reader.execute("SELECT lease_until FROM workers").fetchone() == before:  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.005)


async def block_in_a_task(seconds: float) -> int:
    async with asyncio.TaskGroup() as group:
        return await group.create_task(block_the_loop(seconds))


@app.workflow
async def blocking_code(step: Step, seconds: float) -> int:
    first = await seen("first", step.run("first", act))
    block_here(seconds)
    return first


def block_here(seconds: float) -> None:
    kit.note("begin", of="code")
    time.sleep(seconds)


@app.workflow
async def blocking_task(step: Step, seconds: float) -> int:
    return await seen("block", step.run("block", block_in_a_task, seconds))


@app.workflow
async def blocking_once(step: Step, seconds: float) -> int:
    """Blocks in the first process that runs it."""
    return await seen("block", step.run("block", block_the_first_time, seconds))


async def block_the_first_time(seconds: float) -> int:
    if kit.count("begin") == 0:
        return await block_the_loop(seconds)
    return await act()


@app.workflow
async def blocking(step: Step, seconds: float) -> int:
    first = await seen("first", step.run("first", act))
    return first + await seen("block", step.run("block", block_the_loop, seconds))


if __name__ == "__main__":
    kit.main(app)
