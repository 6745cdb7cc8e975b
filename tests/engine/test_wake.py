"""`wake()` ends the sleep or the backoff that is open now, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from stepwell import App, Step
from stepwell.errors import InvalidTransitionError
from stepwell.testing import sandbox
from tests.engine.conftest import Ledger, in_memory, statuses, until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("seconds", [3, 3600], ids=["in-memory", "parked"])
async def test_it_ends_the_sleep_and_says_so(ledger: Ledger, seconds: int) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.sleep("first", seconds)
        await step.run("between", ledger.note, "between")
        await step.sleep("second", seconds)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        assert in_memory(t) == ({execution.id} if seconds == 3 else set())
        await execution.wake()
        await t.settle()

        first, _, second = await execution.steps()
        assert (first.status, first.flag, first.finished_at) == ("completed", "woken", first.started_at)
        assert (second.status, second.flag) == ("sleeping", None)
        assert second.wake_at is not None
        assert (second.wake_at - second.started_at).total_seconds() == seconds
        await t.crash()
        await t.settle()
        assert ledger == ["between"]
        await execution.wake()
        await execution.result(5)


@pytest.mark.parametrize("delay", ["4 seconds", "1 hour"], ids=["in-memory", "parked"])
async def test_it_ends_one_backoff_at_a_time(ledger: Ledger, delay: str) -> None:
    app = App()

    async def flaky() -> None:
        ledger.append("attempt")
        raise OSError("gone")

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.run("flaky", flaky, retries=2, retry_delay=delay, backoff="constant")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        for attempts in (1, 2):
            await t.settle()
            assert (len(ledger), await statuses(execution)) == (attempts, {"flaky": "retrying"})
            await execution.wake()
        await t.settle()
        assert (len(ledger), await execution.status()) == (3, "failed")


async def test_all_open_sleeps_end_and_deadlines_stay(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        async def branches() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(step.sleep("a", "1 hour"))
                group.create_task(step.sleep("b", "2 hours"))

        await step.within("limit", "3 hours", branches())

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        await execution.wake()
        await execution.result(5)
        assert {step.path: step.flag for step in await execution.steps()} == {"limit": None, "a": "woken", "b": "woken"}


async def test_it_needs_an_open_sleep(ledger: Ledger) -> None:
    app = App()
    gate = asyncio.Event()

    async def pass_through() -> None:
        ledger.append("began")
        await gate.wait()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.run("gate", pass_through)

    async with sandbox(app):
        delayed, running = await workflow.trigger(delay="1 hour"), await workflow.trigger()
        await until(lambda: ledger)
        with pytest.raises(
            InvalidTransitionError, match=r"Cannot wake .*: it is queued, and no sleep or backoff is open"
        ):
            await delayed.wake()
        with pytest.raises(InvalidTransitionError, match=r"Cannot wake .*: it is running"):
            await running.wake()
        gate.set()
        await running.result(5)
        with pytest.raises(InvalidTransitionError, match=r"Cannot wake .*: it is completed"):
            await running.wake()


async def test_a_paused_sleeper_goes_on_once_it_is_resumed(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.sleep("long", "1 day")
        await step.run("work", ledger.note, "work")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        await execution.pause()
        await execution.wake()
        await t.settle()
        assert (await execution.status(), ledger) == ("paused", [])
        await execution.resume()
        await execution.result(5)

    assert ledger == ["work"]
