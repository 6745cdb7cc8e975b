"""Pausing: running bodies end, nothing new starts, deadlines and stored times go on."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from stepwell import App, Step, SyncStep, Workflow
from stepwell.errors import ExecutionFailedError, ExecutionNotFoundError, InvalidTransitionError
from stepwell.testing import sandbox
from tests.engine.conftest import Ledger, in_memory, statuses, until

pytestmark = pytest.mark.anyio


class Gate:
    """A body that begins, waits to be let through, and ends."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._open = asyncio.Event()

    async def pass_through(self) -> str:
        self._ledger.append("began")
        await self._open.wait()
        self._ledger.append("ended")
        return "passed"

    def open(self) -> None:
        self._open.set()


def gated(app: App, ledger: Ledger, gate: Gate, timeout: str | None = None) -> Workflow[None, str]:
    @app.workflow(timeout=timeout)
    async def workflow(step: Step) -> str:
        first = await step.run("gate", gate.pass_through)
        await step.run("after", ledger.note, "after")
        return first

    return workflow


@pytest.mark.parity("P3.6")
async def test_the_running_body_ends_and_nothing_new_starts(ledger: Ledger) -> None:
    app, gate = App(), Gate(ledger)
    workflow = gated(app, ledger, gate)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        await execution.pause()
        assert await execution.status() == "paused"
        assert in_memory(t) == {execution.id}

        gate.open()
        await t.settle()

        assert in_memory(t) == set()
        assert (await execution.status(), await statuses(execution)) == ("paused", {"gate": "completed"})
        await t.advance("1 day")
        assert ledger == ["began", "ended"]

        await execution.resume()
        assert await execution.result(5) == "passed"

    assert ledger == ["began", "ended", "after"]


async def test_paused_while_queued_and_while_asleep(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.sleep("night", "8 hours")
        await step.run("work", ledger.note, "work")

    async with sandbox(app) as t:
        execution = await workflow.trigger(delay="1 hour")
        await execution.pause()
        await t.advance("10 minutes")
        await execution.resume()
        info = await execution.info()
        assert (info.status, info.waiting_for) == ("queued", None)
        assert info.wake_at is not None
        assert (info.wake_at - info.created_at).total_seconds() == 3600
        await t.advance("50 minutes")
        assert await execution.status() == "sleeping"

        await execution.pause()
        await t.advance("2 hours")
        await execution.resume()
        await t.settle()
        info = await execution.info()
        assert (info.status, info.waiting_for) == ("sleeping", "night")
        assert info.wake_at is not None
        assert (info.wake_at - info.created_at).total_seconds() == 9 * 3600

        await execution.pause()
        await t.advance("10 hours")
        assert ledger == []
        await execution.resume()
        await execution.result(5)

    assert ledger == ["work"]


async def test_pausing_twice_is_pausing_once_and_resuming_needs_a_pause(ledger: Ledger) -> None:
    app, gate = App(), Gate(ledger)
    workflow = gated(app, ledger, gate)

    async with sandbox(app):
        execution = await workflow.trigger()
        with pytest.raises(InvalidTransitionError, match=r"Cannot resume execution .*: it is running"):
            await execution.resume()
        await execution.pause()
        await execution.pause()
        await execution.resume()
        with pytest.raises(InvalidTransitionError, match=r"Cannot resume"):
            await execution.resume()
        gate.open()
        assert await execution.result(5) == "passed"
        with pytest.raises(InvalidTransitionError, match=r"Cannot pause execution .*: it is completed"):
            await execution.pause()
        with pytest.raises(ExecutionNotFoundError):
            await app.get_execution("nobody").pause()


async def test_resumed_before_its_body_has_ended_goes_on_in_memory(ledger: Ledger) -> None:
    """Branches that a pause has held begin at once, although another branch is still busy."""
    app, gate = App(), Gate(ledger)
    begin = asyncio.Event()

    @app.workflow
    async def workflow(step: Step) -> None:
        async def second() -> None:
            await begin.wait()
            await step.run("second", ledger.note, "second")

        async with asyncio.TaskGroup() as group:
            group.create_task(step.run("gate", gate.pass_through))
            group.create_task(second())

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        await execution.pause()
        begin.set()
        await asyncio.sleep(0.05)
        assert ledger == ["began"]

        await execution.resume()
        await until(lambda: len(ledger) == 2)
        assert (ledger, in_memory(t)) == (["began", "second"], {execution.id})
        gate.open()
        await execution.result(5)

    assert ledger == ["began", "second", "ended"]


@pytest.mark.guarantee("G6")
async def test_the_timeout_passes_while_paused_and_fails_it(ledger: Ledger) -> None:
    app = App()

    @app.workflow(timeout="1 hour")
    async def workflow(step: Step) -> None:
        await step.sleep("long", "1 day")

    @workflow.on_error
    async def clean_up(step: Step, error: BaseException) -> None:
        await step.run("release", ledger.note, type(error).__name__)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        await execution.pause()
        await t.advance("59 minutes")
        assert await execution.status() == "paused"
        await t.advance("1 minute")
        with pytest.raises(ExecutionFailedError, match="within its timeout of 3600 s"):
            await execution.result(5)

    assert ledger == ["ExecutionTimeoutError"]


async def test_the_timeout_passes_while_the_last_body_runs(ledger: Ledger) -> None:
    app, gate = App(), Gate(ledger)
    workflow = gated(app, ledger, gate, timeout="1 hour")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        await execution.pause()
        await t.advance("1 hour")
        with pytest.raises(ExecutionFailedError, match="timeout"):
            await execution.result(5)

    assert ledger == ["began"]


async def test_a_function_that_only_has_to_return_completes(ledger: Ledger) -> None:
    app, gate = App(), Gate(ledger)

    @app.workflow
    async def workflow(step: Step) -> str:
        return await step.run("gate", gate.pass_through)

    async with sandbox(app):
        execution = await workflow.trigger()
        await until(lambda: ledger)
        await execution.pause()
        gate.open()
        assert await execution.result(5) == "passed"


async def test_a_plain_function_is_held_in_its_thread_and_returns(ledger: Ledger) -> None:
    app, gate = App(), threading.Event()

    def pass_through() -> str:
        ledger.append("began")
        gate.wait(5)
        return "passed"

    @app.workflow
    def one(step: SyncStep) -> str:
        return step.run("gate", pass_through)

    @app.workflow
    def two(step: SyncStep) -> str:
        first = step.run("gate", pass_through)
        return first + step.run("after", ledger.note_in_thread, "after")

    async with sandbox(app) as t:
        returning, going_on = await one.trigger(), await two.trigger()
        await until(lambda: len(ledger) == 2)
        await returning.pause()
        await going_on.pause()
        gate.set()
        assert await returning.result(5) == "passed"
        await until(lambda: not in_memory(t))
        assert (await going_on.status(), ledger) == ("paused", ["began", "began"])
        await going_on.resume()
        assert await going_on.result(5) == "passedafter"

    assert ledger == ["began", "began", "after"]


async def test_a_step_inside_a_running_body_does_not_begin(ledger: Ledger) -> None:
    app, gate = App(), Gate(ledger)

    @app.workflow
    async def workflow(step: Step) -> str:
        async def outer() -> str:
            await step.run("gate", gate.pass_through)
            return await step.run("inner", ledger.note, "inner")

        return await step.run("outer", outer)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        await execution.pause()
        gate.open()
        await until(lambda: not in_memory(t))
        assert await statuses(execution) == {"outer": "running", "outer/gate": "completed"}
        assert ledger == ["began", "ended"]
        await execution.resume()
        assert await execution.result(5) == "inner"

    assert ledger == ["began", "ended", "inner"]


async def test_no_further_attempt_while_paused(ledger: Ledger) -> None:
    app = App()
    failing = asyncio.Event()

    async def flaky() -> str:
        ledger.append("attempt")
        if len(ledger) == 1:
            await failing.wait()
            raise OSError("gone")
        return "done"

    @app.workflow
    async def workflow(step: Step) -> str:
        return await step.run("flaky", flaky, retry_delay="1 second")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        await execution.pause()
        failing.set()
        await t.advance("1 minute")
        assert (await execution.status(), await statuses(execution)) == ("paused", {"flaky": "retrying"})
        assert ledger == ["attempt"]
        await execution.resume()
        assert await execution.result(5) == "done"


async def test_a_pause_outlasts_a_crash_a_drain_and_a_cancel_ends_it(ledger: Ledger) -> None:
    app, gate = App(), Gate(ledger)
    workflow = gated(app, ledger, gate)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        await execution.pause()
        await t.crash()
        await t.settle()
        assert (await execution.status(), in_memory(t)) == ("paused", set())
        assert ledger == ["began"]
        await execution.resume()
        gate.open()
        assert await execution.result(5) == "passed"

        other = await workflow.trigger(delay="1 hour")
        await other.pause()
        await other.cancel("enough")
        assert await other.status() == "cancelled"


async def test_cleaning_up_is_held_as_well_and_no_deadline_ends_that(ledger: Ledger) -> None:
    app, gate = App(), Gate(ledger)

    @app.workflow(timeout="1 hour")
    async def workflow(step: Step) -> None:
        raise ValueError("no")

    @workflow.on_error
    async def clean_up(step: Step, error: BaseException) -> None:
        await step.run("gate", gate.pass_through)
        await step.run("release", ledger.note, "released")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        await execution.pause()
        gate.open()
        await t.advance("2 hours")
        assert (await execution.status(), ledger) == ("paused", ["began", "ended"])
        await execution.resume()
        with pytest.raises(ExecutionFailedError, match="no"):
            await execution.result(5)

    assert ledger == ["began", "ended", "released"]


async def test_from_another_program_the_owner_hears_of_it(ledger: Ledger, tmp_path: Path) -> None:
    """A second App on the same file pauses, wakes and resumes what the first one runs."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    app, other, gate = App(), App(database=url), Gate(ledger)

    @app.workflow
    async def workflow(step: Step) -> str:
        await step.run("gate", gate.pass_through)
        await step.sleep("short", "3 seconds")
        return await step.run("after", ledger.note, "after")

    async with sandbox(app, database=url) as t, other.connected():
        execution = await workflow.trigger()
        await until(lambda: ledger)
        remote = other.get_execution(execution.id)
        await remote.pause()
        gate.open()
        await until(lambda: not in_memory(t))
        assert (await execution.status(), ledger) == ("paused", ["began", "ended"])

        await remote.resume()
        async for info in execution.watch():
            if info.status == "sleeping":
                break
        await remote.wake()
        assert await execution.result(5) == "after"


async def test_a_fan_out_is_held_between_its_items(ledger: Ledger) -> None:
    app, gate = App(), asyncio.Event()

    async def item(number: int) -> int:
        ledger.append(f"item {number}")
        await gate.wait()
        return number

    @app.workflow
    async def workflow(step: Step) -> list[int]:
        return await step.map("items", range(6), item, concurrency=2)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: len(ledger) == 2)
        await execution.pause()
        gate.set()
        await until(lambda: not in_memory(t))
        assert (await execution.status(), len(ledger)) == ("paused", 2)
        await execution.resume()
        assert await execution.result(5) == list(range(6))

    assert sorted(ledger) == [f"item {number}" for number in range(6)]


async def test_a_transaction_does_not_begin(ledger: Ledger) -> None:
    app, gate = App(), Gate(ledger)

    def insert(connection: sqlite3.Connection) -> None:
        ledger.append("transaction")

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.run("gate", gate.pass_through)
        await step.transaction("insert", insert)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        await execution.pause()
        gate.open()
        await until(lambda: not in_memory(t))
        assert ledger == ["began", "ended"]
        await execution.resume()
        await execution.result(5)

    assert ledger == ["began", "ended", "transaction"]
