"""What the worker programs share: the ledger of side effects, and serving until told to leave.

A program is started as a process of its own. The test tells it, by its environment, the database (`DATABASE`), the ledger
(`LEDGER`), and what else it needs. A program with `WAIT_FOR_GO` waits for a line on its standard input before it serves.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from stepwell import App, current_step
from stepwell.duration import Duration
from stepwell.store.sqlite import lease
from stepwell.store.sqlite.store import SqliteStore

_ledger: int | None = None


def database() -> str:
    """The URL that the test gave; a module that a test imports gets its database later, by `app.use_database`."""
    return os.environ.get("DATABASE", "sqlite://")


def write(what: str, **fields: object) -> None:
    """Append a line to the ledger; on disk on return."""
    global _ledger
    if _ledger is None:
        _ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    line = {"at": time.time_ns() // 1000, "what": what, "pid": os.getpid(), **fields}
    os.write(_ledger, json.dumps(line).encode() + b"\n")
    os.fsync(_ledger)


def count(what: str) -> int:
    """How many such lines there are in the ledger, of all processes."""
    with open(os.environ["LEDGER"], "rb") as lines:
        return sum(json.loads(line)["what"] == what for line in lines)


def note(what: str, **fields: object) -> None:
    """Append a line that says where in which execution it comes from."""
    here = current_step()
    write(
        what,
        execution=here.execution_id,
        path=here.path,
        attempt=here.attempt,
        epoch=here._runner.epoch,
        **fields,
    )


def fresh() -> int:
    """A value that no other body returns."""
    return random.SystemRandom().getrandbits(52)


async def act(seconds: float = 0.0) -> int:
    """A body that takes some time."""
    note("begin")
    await asyncio.sleep(seconds)
    value = fresh()
    note("end", value=value)
    return value


def act_in_thread(seconds: float = 0.0) -> int:
    """The same in a thread."""
    note("begin")
    time.sleep(seconds)
    value = fresh()
    note("end", value=value)
    return value


async def act_after(failures: int, seconds: float = 0.0) -> int:
    """A body that fails in its first attempts."""
    note("begin")
    await asyncio.sleep(seconds)
    if current_step().attempt <= failures:
        note("fail")
        raise ConnectionError(f"attempt {current_step().attempt}")
    value = fresh()
    note("end", value=value)
    return value


async def seen(path: str, call: Awaitable[Any]) -> Any:
    """Await a step call in workflow code, and tell what it gave."""
    value = await call
    note("seen", of=path, value=value)
    return value


def shorten_lease(seconds: float) -> None:
    """Lease and renewal as usual, in a shorter time."""
    lease.LEASE_US = int(seconds * 1_000_000)
    lease.RENEW_US = int(seconds * 1_000_000 / 3)
    lease.RETRY_US = int(seconds * 1_000_000 / 15)


def slow_down(names: str, seconds: float) -> None:
    """Let the answers of these methods of the store come late: what they tell may be over by then."""
    for name in names.split(","):
        setattr(SqliteStore, name, _late(getattr(SqliteStore, name), seconds))


def _late(method: Callable[..., Awaitable[Any]], seconds: float) -> Callable[..., Awaitable[Any]]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        answer = await method(*args, **kwargs)
        await asyncio.sleep(seconds)
        return answer

    return call


async def serve(
    app: App,
    *,
    concurrency: int = 1_000,
    drain_timeout: Duration = "10 seconds",
    on_running: Callable[[], object] | None = None,
) -> None:
    """Run a worker until SIGTERM comes."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, show_tasks)
    async with app.running(concurrency=concurrency, drain_timeout=drain_timeout) as worker:
        write("running", worker=worker.worker_id)
        if on_running is not None:
            on_running()
        await asked.wait()
        write("leaving")
    write("left")


def show_tasks() -> None:
    """Print what all tasks wait for: asked for when a test fails."""
    for task in asyncio.all_tasks():
        task.print_stack(limit=3, file=sys.stderr)


def main(app: App, **options: Any) -> None:
    """What a program does that only serves."""
    prepare()
    asyncio.run(serve(app, **options))


def prepare() -> None:
    """Log to standard error, obey the test's environment, and wait for its go."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2)
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(levelname)s %(name)s %(message)s")
    if seconds := os.environ.get("LEASE_SECONDS"):
        shorten_lease(float(seconds))
    if names := os.environ.get("SLOW"):
        slow_down(names, float(os.environ.get("SLOW_SECONDS", "0.03")))
    if os.environ.get("WAIT_FOR_GO"):
        write("ready")
        if not sys.stdin.readline():
            sys.exit(0)
