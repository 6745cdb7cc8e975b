"""A client in one process, the worker in another."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator

import pytest

from stepwell import Execution, ExecutionCancelledError, ExecutionFailedError, InvalidTransitionError
from tests.acceptance.harness import Process, Site, check
from tests.acceptance.programs import remote
from tests.acceptance.programs.remote import Order, Receipt

pytestmark = pytest.mark.anyio


@pytest.fixture
async def worker(site: Site) -> AsyncIterator[Process]:
    """A worker in another process, and this one connected without a worker of its own."""
    worker = site.start("remote")
    remote.app.use_database(site.url)
    site.await_line(lambda line: line.what == "running", "the worker to run")
    site.audit()
    async with remote.app.connected():
        yield worker


async def test_a_trigger_reaches_its_first_step_and_its_client_soon(site: Site, worker: Process) -> None:
    starts: list[float] = []
    round_trips: list[float] = []
    for n in range(20):
        triggered_at, began = time.time_ns() // 1000, time.monotonic()
        execution = await remote.quick.trigger(Order(f"o-{n}", n))
        receipt = await execution.result(5)
        round_trips.append(time.monotonic() - began)
        assert receipt == Receipt(Order(f"o-{n}", n), n + 1)
        [line] = site.lines("begin", execution.id)
        starts.append((line.at - triggered_at) / 1_000_000)

    assert statistics.median(starts) < 0.1, sorted(starts)
    assert statistics.median(round_trips) < 0.2, sorted(round_trips)
    check(site)


async def test_many_results_arrive_in_one_client(site: Site, worker: Process) -> None:
    executions = await remote.quick.trigger_many([Order("o", n) for n in range(300)])

    receipts = await asyncio.gather(*(execution.result(10) for execution in executions))

    assert [receipt.total for receipt in receipts] == list(range(1, 301))
    check(site)


async def test_a_failure_arrives_in_the_client(site: Site, worker: Process) -> None:
    execution = await remote.failing.trigger()

    with pytest.raises(ExecutionFailedError) as caught:
        await execution.result(5)

    assert isinstance(caught.value.__cause__, ValueError)
    assert str(caught.value.__cause__) == "so it is"


@pytest.mark.guarantee("G8")
@pytest.mark.parametrize(("name", "bodies"), [("long_body", 1), ("long_body_that_swallows", 1), ("side_by_side", 5)])
async def test_cancel_ends_running_bodies_within_200_ms(site: Site, worker: Process, name: str, bodies: int) -> None:
    execution: Execution[object] = await remote.app.workflows[name].trigger()
    await begun(site, bodies)

    cancelled_at = time.time_ns() // 1000
    await execution.cancel("enough")
    with pytest.raises(ExecutionCancelledError):
        await execution.result(1)

    await eventually(lambda: len(site.lines("cancelled")) == bodies)
    assert max(line.at for line in site.lines("cancelled")) - cancelled_at < 200_000
    info = await execution.info()
    assert (info.status, info.reason) == ("cancelled", "enough")
    assert {step.status for step in await execution.steps()} <= {"cancelled"}
    await asyncio.sleep(0.3)
    assert len(site.lines("begin")) == bodies, "a further step was started"
    check(site)


@pytest.mark.guarantee("G8")
async def test_cancel_throws_away_what_a_thread_returns_later(site: Site, worker: Process) -> None:
    execution = await remote.long_thread.trigger()
    await begun(site, 1)

    await execution.cancel()
    await eventually(lambda: site.lines("end"))
    await asyncio.sleep(0.2)

    assert await execution.status() == "cancelled"
    assert not [step for step in await execution.steps() if step.status == "completed"]
    assert len(site.lines("begin")) == 1
    check(site)


@pytest.mark.guarantee("G8")
@pytest.mark.parametrize("seconds", [3, 60], ids=["in memory", "parked"])
async def test_cancel_of_a_sleeping_execution(site: Site, worker: Process, seconds: float) -> None:
    execution = await remote.sleeper.trigger(seconds)
    owned = "owner IS NULL" if seconds > 5 else "owner IS NOT NULL"
    await eventually(lambda: site.rows(f"SELECT 1 FROM executions WHERE status = 'sleeping' AND {owned}"))

    await execution.cancel()

    assert await execution.status() == "cancelled"
    await execution.cancel()  # again: nothing happens
    with pytest.raises(ExecutionCancelledError):
        await execution.result(1)
    later = await remote.quick.trigger(Order("o", 1))
    await later.result(5)
    assert not site.lines("begin", execution.id)
    with pytest.raises(InvalidTransitionError):
        await later.cancel()
    check(site)


async def test_cancel_of_many_at_once(site: Site, worker: Process) -> None:
    """Cancelled while they are started, run and end: what cancel answers is true."""
    executions = await remote.quick.trigger_many([Order("o", n) for n in range(200)])

    async def cancel(execution: Execution[Receipt]) -> str:
        try:
            await execution.cancel()
        except InvalidTransitionError:
            return "completed"
        return "cancelled"

    answers = await asyncio.gather(*map(cancel, executions))
    await eventually(lambda: not site.living())

    assert [await execution.status() for execution in executions] == answers
    check(site)


async def test_a_client_survives_the_death_of_the_worker_that_it_waits_for(site: Site, worker: Process) -> None:
    execution = await remote.sleeper.trigger(1)
    await eventually(lambda: site.counts().get("sleeping"))
    waiting = asyncio.create_task(execution.result(10))

    worker.kill()
    site.start("remote")

    assert await waiting is None
    check(site)


async def begun(site: Site, count: int) -> None:
    await eventually(lambda: len(site.lines("begin")) == count)


async def eventually(condition: object, seconds: float = 5.0) -> None:
    """As `Site.until`, without keeping this process's event loop from turning."""
    deadline = time.monotonic() + seconds
    while not condition():  # pyright: ignore[reportCallIssue]
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)
