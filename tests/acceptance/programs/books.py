"""Steps that write into a table of their own in the transaction that records them, in several ways."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time

from stepwell import App, Step, SyncStep, current_step
from tests.acceptance.programs import full_disk, kit
from tests.acceptance.programs.kit import act, seen

app = App("books", database=kit.database())

TABLE = "CREATE TABLE IF NOT EXISTS entries (execution TEXT, path TEXT, value INTEGER)"
"""Without a key: whatever were written twice would stand there twice."""
ROWS = 3


def enter(connection: sqlite3.Connection, failures: int = 0, pause: float = 0.0) -> int:
    """Write some rows, one after the other, so that there is time to die in between."""
    here, value = current_step(), kit.fresh()
    for n in range(ROWS):
        connection.execute("INSERT INTO entries VALUES (?, ?, ?)", (here.execution_id, here.path, value))
        if n == 1:
            kit.note("middle", value=value)
            time.sleep(pause)
    if here.attempt <= failures:
        raise ConnectionError(f"attempt {here.attempt}")
    return value


@app.workflow(retries=3)
async def books(step: Step, number: int) -> int:
    total = await seen("first", step.transaction("first", enter))
    await step.run("between", act)
    left, right = await asyncio.gather(step.transaction("left", enter), step.transaction("right", enter))
    await step.sleep("nap", 0.02)
    flaky = await step.transaction("flaky", enter, 2, retry_delay=0.01)
    return total + left + right + flaky


@app.workflow
def plain_books(step: SyncStep, number: int) -> int:
    return sum(step.transaction(f"entry-{n}", enter) for n in range(4))


@app.workflow
async def slow_books(step: Step, number: int) -> int:
    return await step.transaction("slow", enter, 0, 0.3)


if __name__ == "__main__":
    kit.main(app, on_running=full_disk.listen, concurrency=int(os.environ.get("CONCURRENCY", "1000")))
