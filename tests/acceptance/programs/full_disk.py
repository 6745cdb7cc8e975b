"""A worker whose disk is full between two signals: no file of this process may grow meanwhile."""

from __future__ import annotations

import asyncio
import os
import resource
import signal

from stepwell import App, Step
from tests.acceptance.programs import kit
from tests.acceptance.programs.kit import act, seen

app = App("full-disk", database=kit.database())
LIMIT = 16_384
"""The ledger stays below it; the write-ahead log is beyond it since the schema was made, and no checkpoint is due."""


@app.workflow
async def writes(step: Step, number: int) -> int:
    total = 0
    for n in range(3):
        total += await seen(f"s{n}", step.run(f"s{n}", act, 0.15))
    return total


def fill_up() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
    print("full", flush=True)  # noqa: T201


def make_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("room", flush=True)  # noqa: T201


def listen() -> None:
    # From a thread-safe handler of the loop: the limit holds for the whole process.
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGURG, fill_up)
    loop.add_signal_handler(signal.SIGWINCH, make_room)


if __name__ == "__main__":
    kit.main(app, on_running=listen, drain_timeout=float(os.environ.get("GRACE", "1")))
