"""What only SQLite has to keep: several connections on one file, threads, forks, broken disks."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from stepwell.clock import SystemClock
from stepwell.errors import StoreUnavailableError
from stepwell.store.open import OpenStore, open_store
from stepwell.store.records import ExecutionFilter
from stepwell.store.transitions import Refused, Triggered, TriggeredMany
from tests.store.builders import (
    NOW,
    SteppingClock,
    apply,
    claim,
    finished,
    get,
    new,
    parked,
    queue,
    register,
    retrying,
    start,
    step,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pair(anyio_backend: str, file_url: str, clock: SteppingClock) -> AsyncGenerator[tuple[OpenStore, OpenStore]]:
    """Two Apps on one file."""
    async with open_store(file_url, clock=clock) as one, open_store(file_url, clock=clock) as two:
        yield one, two


@asynccontextmanager
async def locked(url: str) -> AsyncGenerator[None]:
    """Somebody else holds the write lock."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def run_script(script: str, *arguments: str) -> str:
    process = start_script(script, *arguments)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    return output


def start_script(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


# Several on one file


async def test_two_stores_on_one_file_fence_each_other(pair: tuple[OpenStore, OpenStore]) -> None:
    one, two = pair
    await register(one, "w1")
    await register(two, "w2")
    await start(one, "e", by="w1")
    await apply(one, step("e", "a"), by="w1")

    assert await two.reap("w2", "w1", dead=True, crashed=True, now=NOW) == 1
    [claimed] = await claim(two, by="w2")

    assert (claimed.epoch, claimed.crashes, [row.path for row in claimed.history]) == (2, 1, ["a"])
    assert await apply(one, step("e", "b"), by="w1") == [Refused("e")]
    assert await apply(two, step("e", "b", epoch=2), finished("e", epoch=2), by="w2") == [None, None]


async def test_no_execution_is_claimed_twice(pair: tuple[OpenStore, OpenStore]) -> None:
    one, two = pair
    await register(one, "w1")
    await register(two, "w2")
    await queue(one, *(f"e{index:03}" for index in range(300)))

    async def claim_all(store: OpenStore, by: str) -> list[str]:
        ids: list[str] = []
        while claimed := await claim(store, 7, by=by):
            ids += [each.id for each in claimed]
        return ids

    first, second = await asyncio.gather(claim_all(one, "w1"), claim_all(two, "w2"))

    assert first
    assert second
    assert sorted(first + second) == [f"e{index:03}" for index in range(300)]


async def test_changes_of_others_are_noticed_soon(pair: tuple[OpenStore, OpenStore]) -> None:
    one, two = pair
    heard = asyncio.Event()
    one.subscribe(heard.set)
    await queue(one, "mine")

    spent: list[float] = []
    for index in range(5):
        heard.clear()
        await queue(two, f"e{index}")
        begin = time.perf_counter()
        async with asyncio.timeout(5):
            await heard.wait()
        spent.append(time.perf_counter() - begin)

    assert min(spent) < 0.1


async def test_own_changes_and_ended_subscriptions_are_silent(pair: tuple[OpenStore, OpenStore]) -> None:
    one, two = pair
    calls: list[str] = []
    end = one.subscribe(lambda: calls.append("ended"))
    heard = asyncio.Event()
    one.subscribe(heard.set)
    end()
    await queue(one, "mine")
    assert not heard.is_set()

    await queue(two, "theirs")
    async with asyncio.timeout(5):
        await heard.wait()
    assert calls == []


async def test_nobody_starves_beside_a_busy_writer(pair: tuple[OpenStore, OpenStore]) -> None:
    one, two = pair
    done = asyncio.Event()

    async def hammer() -> int:
        count = 0
        while not done.is_set():
            count += 1
            await queue(one, f"h{count}")
        return count

    hammering = asyncio.create_task(hammer())
    spent: list[float] = []
    for index in range(50):
        begin = time.perf_counter()
        await queue(two, f"e{index}")
        spent.append(time.perf_counter() - begin)
    done.set()

    assert await hammering > 0
    assert max(spent) < 1.0
    assert sorted(spent)[25] < 0.1


async def test_writer_waits_for_the_lock(file_url: str, clock: SteppingClock, caplog: pytest.LogCaptureFixture) -> None:
    async with open_store(file_url, clock=clock, rng=random.Random(1)) as store:
        async with locked(file_url):
            writing = asyncio.create_task(queue(store, "e"))
            with caplog.at_level(logging.WARNING, "stepwell.sqlite"):
                await until(lambda: clock.skip(1) or "for more than 5 s" in caplog.text)
            assert not writing.done()
            assert (await store.counts())["queued"] == 0
        await writing
        assert (await store.counts())["queued"] == 1


async def test_writer_gives_up_after_a_minute(file_url: str, clock: SteppingClock) -> None:
    async with open_store(file_url, clock=clock) as store:
        async with locked(file_url):
            writing = asyncio.create_task(queue(store, "e"))
            await until(lambda: clock.skip(61) or writing.done())
            with pytest.raises(StoreUnavailableError, match="another process has held its write lock for 60 s"):
                await writing
        await queue(store, "f")
        assert await store.execution("e") is None


async def test_reading_does_not_wait_for_the_writer(file_url: str, clock: SteppingClock) -> None:
    async with open_store(file_url, clock=clock) as store:
        await queue(store, "e")
        async with locked(file_url), asyncio.timeout(1):
            assert await store.execution("e") is not None
            assert len((await store.executions(ExecutionFilter())).rows) == 1


async def test_batch_sent_again_brings_nothing_deleted_back(file_url: str, clock: SteppingClock) -> None:
    many = TriggeredMany((new("a", request="r"), new("b", request="r")))
    async with open_store(file_url, clock=clock) as store:
        await apply(store, many, by=None)
        with closing(sqlite3.connect(file_url.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute("DELETE FROM executions WHERE id = 'a'")

        assert await apply(store, many, by=None) == [None]
        assert await store.execution("a") is None


async def test_what_was_acknowledged_survives_a_kill(file_url: str, clock: SteppingClock) -> None:
    script = """
import asyncio, sys
from stepwell.clock import SystemClock
from stepwell.store.open import open_store
from stepwell.store.transitions import NewExecution, Triggered

async def main(url):
    async with open_store(url, clock=SystemClock()) as store:
        for index in range(1_000_000):
            await store.apply([Triggered(NewExecution(f"e{index}", "wf", "1", 1))])
            print(f"e{index}", flush=True)

asyncio.run(main(sys.argv[1]))
"""
    async with open_store(file_url, clock=clock) as store:
        process = start_script(script, file_url)
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(200)]
        process.kill()
        acknowledged += process.communicate(timeout=10)[0].split()

        await queue(store, "after")
        stored = (await store.counts())["queued"]
        assert len(acknowledged) + 1 <= stored <= len(acknowledged) + 2
        assert await store.finished(acknowledged[:-1]) == []


# Threads


async def test_job_runs_although_its_caller_gave_up(file_url: str, clock: SteppingClock) -> None:
    async with open_store(file_url, clock=clock) as store:
        async with locked(file_url):
            writing = asyncio.ensure_future(store.apply([Triggered(new("e"))]))
            await asyncio.sleep(0)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
        await apply(store, by=None)
        assert await store.execution("e") is not None


async def test_closed_store_says_so(file_url: str, clock: SteppingClock) -> None:
    async with open_store(file_url, clock=clock) as store:
        writing = asyncio.create_task(queue(store, "e"))
        await asyncio.sleep(0)
    await writing
    await store.close()

    for call in (store.counts, lambda: store.apply([])):
        with pytest.raises(StoreUnavailableError, match="it is closed"):
            await call()


async def test_closing_ends_the_threads_and_folds_the_log(file_url: str, clock: SteppingClock, tmp_path: Path) -> None:
    async with open_store(file_url, clock=clock) as store:
        await register(store)
        await store.counts()

    await until(lambda: not [each for each in threading.enumerate() if each.name.startswith("stepwell-sqlite")])
    assert [each.name for each in tmp_path.iterdir()] == ["test.db"]


async def test_broken_pulse_does_not_stop_the_writer(
    file_url: str, clock: SteppingClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_store(file_url, clock=clock) as store:
        pulse = await register(store)
        pulse.broken = True
        clock.skip(6)
        await until(lambda: "The upkeep of" in caplog.text)
        pulse.broken = False
        await queue(store, "e")


def test_use_after_fork_is_refused(tmp_path: Path) -> None:
    script = """
import asyncio, os, sys
from stepwell.clock import SystemClock
from stepwell.errors import StoreUnavailableError
from stepwell.store.open import open_store

async def main(url):
    async with open_store(url, clock=SystemClock()) as store:
        await store.counts()
        child = os.fork()
        if child == 0:
            for call in (store.counts, lambda: store.apply([])):
                try:
                    await call()
                except StoreUnavailableError as error:
                    assert "forked" in str(error)
                else:
                    os._exit(1)
            await store.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        await store.counts()

asyncio.run(main(sys.argv[1]))
"""
    run_script(script, f"sqlite:///{tmp_path / 'test.db'}")


# Disks


def test_full_disk_fails_the_batch_and_later_batches_work(tmp_path: Path) -> None:
    script = """
import asyncio, resource, sys
from stepwell.clock import SystemClock
from stepwell.errors import StoreUnavailableError
from stepwell.store.open import open_store
from stepwell.store.records import ExecutionFilter
from stepwell.store.transitions import NewExecution, Triggered

def new(id, size):
    return Triggered(NewExecution(id, "wf", '"' + "x" * size + '"', 1))

async def main(url):
    async with open_store(url, clock=SystemClock()) as store:
        await store.apply([new("before", 10)])
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
        for _ in range(2):
            try:
                await store.apply([new("small", 10), new("big", 1_000_000)])
            except StoreUnavailableError as error:
                print(error)
            else:
                raise AssertionError("written")
        assert await store.execution("before") is not None
        assert await store.execution("small") is None
        await store.apply([new("meanwhile", 10)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await store.apply([new("small", 10), new("big", 1_000_000)])
        page = await store.executions(ExecutionFilter())
        print(sorted(row.id for row in page.rows))

asyncio.run(main(sys.argv[1]))
"""
    path = tmp_path / "test.db"

    output = run_script(script, f"sqlite:///{path}").splitlines()

    assert "cannot be used: disk I/O error" in output[0]
    assert output[-1] == "['before', 'big', 'meanwhile', 'small']"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_file_that_vanished_is_not_made_again(file_url: str, tmp_path: Path, clock: SteppingClock) -> None:
    async with open_store(file_url, clock=clock) as store:
        await queue(store, "e")
        for path in tmp_path.iterdir():
            path.unlink()
        with pytest.raises(StoreUnavailableError, match="cannot be opened"):
            await store.counts()
    assert list(tmp_path.iterdir()) == []


# The file as others read it


async def test_views_are_readable(file_url: str, clock: SteppingClock) -> None:
    async with open_store(file_url, clock=clock) as store:
        await register(store)
        await start(store, "e", priority=2, version="v", deadline_at=NOW + 5)
        await apply(store, step("e", "a"), retrying("e", "b"), parked("e", wake_at=NOW + 1))

    with closing(sqlite3.connect(file_url.removeprefix("sqlite:///"))) as connection:
        connection.row_factory = sqlite3.Row
        execution = dict(connection.execute("SELECT * FROM stepwell_executions").fetchone())
        steps = [dict(row) for row in connection.execute("SELECT * FROM stepwell_steps ORDER BY path")]

    assert execution == {
        "id": "e",
        "workflow": "wf",
        "status": "sleeping",
        "run": 1,
        "worker": None,
        "priority": 2,
        "version": "v",
        "parent_id": None,
        "waiting_for": "s",
        "reason": None,
        "crashes": 0,
        "input": '{"n":1}',
        "output": None,
        "error": None,
        "created_at": "2030-01-01T00:00:00.000000Z",
        "started_at": "2030-01-01T00:00:00.000000Z",
        "finished_at": None,
        "wake_at": "2030-01-01T00:00:00.000001Z",
        "deadline_at": "2030-01-01T00:00:00.000005Z",
    }
    assert steps[0] == {
        "execution_id": "e",
        "run": 1,
        "path": "a",
        "kind": "run",
        "status": "completed",
        "attempt": 1,
        "flag": None,
        "input": "[]",
        "output": "1",
        "error": None,
        "started_at": "2030-01-01T00:00:00.000001Z",
        "finished_at": "2030-01-01T00:00:00.000002Z",
        "wake_at": None,
    }
    assert (steps[1]["status"], steps[1]["wake_at"]) == ("retrying", "2030-01-01T00:00:01.000000Z")


async def test_pragmas(file_url: str) -> None:
    async with open_store(file_url, clock=SystemClock()) as store:
        await queue(store, "e")
        with closing(sqlite3.connect(file_url.removeprefix("sqlite:///"))) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert (await get(store)).status == "queued"
