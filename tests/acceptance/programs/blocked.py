"""A body that blocks the event loop of its worker."""

from __future__ import annotations

import os
import sqlite3
import time

from stepwell import App, Step
from tests.acceptance.programs import kit
from tests.acceptance.programs.kit import act, seen

app = App("blocked", database=kit.database())


async def block_the_loop(seconds: float) -> int:
    kit.note("begin")
    if os.environ.get("AFTER_RENEWAL"):
        wait_for_a_renewal()
    time.sleep(seconds)
    value = kit.fresh()
    kit.note("end", value=value)
    return value


def wait_for_a_renewal() -> None:
    """Return right after the lease was renewed: the thread that does it looks again in a third of a lease."""
    path = os.environ["DATABASE"].removeprefix("sqlite:///")
    with sqlite3.connect(path) as reader:
        before = reader.execute("SELECT lease_until FROM workers").fetchone()
        while reader.execute("SELECT lease_until FROM workers").fetchone() == before:
            time.sleep(0.01)


@app.workflow
async def blocking(step: Step, seconds: float) -> int:
    first = await seen("first", step.run("first", act))
    return first + await seen("block", step.run("block", block_the_loop, seconds))


if __name__ == "__main__":
    kit.main(app)
