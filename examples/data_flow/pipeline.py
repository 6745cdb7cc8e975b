"""Numbers come in batches: they are validated, doubled and squared, and stored in a table of ours, each exactly once.

python pipeline.py 100      # triggers a hundred batches; `stepwell worker` processes them
"""

import asyncio
import os
import random
import sqlite3
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stepwell import App, Step, current_step
from stepwell.errors import NonRetryableError

app = App("pipeline")

FOLDER: Final = Path(__file__).resolve().parent / ".stepwell"
PACE: Final = float(os.environ.get("PACE", "0"))
"""How many seconds it takes to store a row: time to kill the worker in the middle."""
TABLE: Final = "CREATE TABLE IF NOT EXISTS results (batch TEXT, value INTEGER, doubled INTEGER, squared INTEGER)"
"""Without a key: a row that is stored twice would stand there twice."""


@dataclass(frozen=True)
class Batch:
    """What comes in."""

    id: str
    values: list[int]


@dataclass(frozen=True)
class Summary:
    """What has been stored."""

    rows: int
    total: int


class InvalidBatchError(NonRetryableError):
    """The batch cannot be processed as it is."""


@app.workflow
async def data_processing(step: Step, batch: Batch) -> Summary:
    """Take one batch from the door to the table."""
    values = await step.run("validate", validate, batch)
    doubled, squared = await asyncio.gather(
        step.run("double", double, values),
        step.run("square", square, values),
    )
    rows = await step.transaction("store", store, batch.id, values, doubled, squared)
    return Summary(rows, sum(squared))


def validate(batch: Batch) -> list[int]:
    """Refuse what is empty, and drop what was sent twice."""
    note()
    if not batch.values:
        raise InvalidBatchError(f"Batch {batch.id} is empty.")
    return sorted(set(batch.values))


def double(values: list[int]) -> list[int]:
    """The first way to process numbers."""
    note()
    return [2 * value for value in values]


def square(values: list[int]) -> list[int]:
    """The second way to process numbers."""
    note()
    return [value * value for value in values]


def store(
    connection: sqlite3.Connection, batch_id: str, values: list[int], doubled: list[int], squared: list[int]
) -> int:
    """Write the rows, in the transaction that records this step: both are there afterwards, or neither is."""
    note()
    connection.execute(TABLE)
    for row in zip(values, doubled, squared, strict=True):
        connection.execute("INSERT INTO results VALUES (?, ?, ?, ?)", (batch_id, *row))
        time.sleep(PACE)
    return len(values)


def note() -> None:
    """Append to a file that this body begins; the line is on disk when this returns."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "bodies.log").open("a") as log:
        log.write(f"{current_step().execution_id} {current_step().path}\n")
        log.flush()
        os.fsync(log.fileno())


async def fill(count: int) -> None:
    """Trigger so many batches: all of them, or none."""
    dice = random.Random(count)
    batches = [Batch(f"B-{n:03}", dice.sample(range(1000), 8)) for n in range(count)]
    async with app.connected():
        await data_processing.trigger_many(batches, ids=[batch.id for batch in batches])


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[1])))
