"""`step.within`: a block of workflow code with a durable deadline."""

from __future__ import annotations

import asyncio
import contextlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from stepwell import App, Step, SyncStep
from stepwell.errors import ExecutionFailedError, StepTimeoutError
from stepwell.testing import Tester, sandbox
from tests.engine.conftest import Ledger, in_memory, until

pytestmark = pytest.mark.anyio

START = datetime(2030, 1, 1, tzinfo=UTC)


async def finished_at(t: Tester, id: str) -> timedelta:
    """How long after the start the execution ended."""
    moment = (await t.app.get_execution(id).info()).finished_at
    assert moment is not None
    return moment - START


@pytest.mark.parametrize("limit", ["4 seconds", "1 hour"])
async def test_block_that_ends_in_time_gives_its_value(ledger: Ledger, limit: str) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def block() -> str:
            await step.run("first", ledger.note, "first")
            await step.sleep("nap", "3 seconds")
            return await step.run("second", ledger.note, "second")

        return await step.within("limit", limit, block())

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("3 seconds")
        assert await execution.result(5) == "second"

    assert ledger == ["first", "second"]


@pytest.mark.guarantee("G6")
@pytest.mark.parametrize(("limit", "nap"), [("3 seconds", "4 seconds"), ("3 seconds", "1 hour"), ("1 hour", "2 hours")])
async def test_block_that_takes_too_long_raises(ledger: Ledger, limit: str, nap: str) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def block() -> None:
            await step.sleep("nap", nap)
            await step.run("never", ledger.note, "never")

        try:
            await step.within("limit", limit, block())
        except TimeoutError as error:
            return error.path if isinstance(error, StepTimeoutError) else ""
        return "in time"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("1 day")

        assert await execution.result(5) == "limit"
        assert str(await finished_at(t, execution.id)) in ("0:00:03", "1:00:00")
        assert {step.path: step.status for step in await execution.steps()} == {"limit": "failed", "nap": "cancelled"}

    assert ledger == []


async def test_deadline_that_nobody_catches_fails_the_execution() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.within("limit", "3 seconds", step.sleep("nap", "1 hour"))

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("3 seconds")

        with pytest.raises(ExecutionFailedError) as failed:
            await execution.result(5)
    assert failed.value.error_type.endswith("StepTimeoutError")
    assert isinstance(failed.value.__cause__, StepTimeoutError)


async def test_error_of_the_block_is_raised() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def block() -> None:
            raise KeyError("of the user")

        try:
            await step.within("limit", "1 hour", block())
        except KeyError as error:
            await step.sleep("nap", "1 minute")
            return repr(error)
        return "ended"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("1 minute")

        assert await execution.result(5) == "KeyError('of the user')"


async def test_steps_of_the_block_belong_to_the_surrounding_scope(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def block() -> str:
            return await step.run("shared", ledger.note, "block")

        async def body() -> None:
            await step.within("limit", "1 hour", block())

        await step.within("limit", "1 hour", block())
        await step.run("outer", body)
        return await step.run("shared", ledger.note, "block")

    async with sandbox(app):
        execution = await workflow.trigger()
        assert await execution.result(5) == "block"

        paths = {step.path for step in await execution.steps()}
        assert paths == {"limit", "shared", "outer", "outer/limit", "outer/shared"}

    assert ledger == ["block", "block"]


async def test_block_in_time_is_in_time_on_every_replay(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def block() -> str:
            await step.sleep("in", "10 seconds")
            return await step.run("note", ledger.note, "note")

        value = await step.within("limit", "1 minute", block())
        await step.sleep("later", "1 day")
        return value

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("20 seconds")
        await t.crash()
        await t.advance("1 day")

        assert await execution.result(5) == "note"

    assert ledger == ["note"]


async def test_lost_block_is_not_started_on_replay(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def slow() -> None:
            ledger.append("started")
            await asyncio.Event().wait()

        async def block() -> None:
            ledger.append("block")
            await step.run("slow", slow)

        with contextlib.suppress(StepTimeoutError):
            await step.within("limit", "10 seconds", block())
        await step.sleep("later", "1 day")
        return await step.run("after", ledger.note, "after")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: "started" in ledger)
        t.clock.move_to(t.clock.now() + 10_000_000)
        await t.settle()
        assert (await execution.status(), in_memory(t)) == ("sleeping", set())
        await t.crash()
        await t.advance("1 day")

        assert await execution.result(5) == "after"

    assert ledger == ["block", "started", "after"]


async def test_body_in_a_lost_block_is_cancelled(ledger: Ledger) -> None:
    app, began = App(), asyncio.Event()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def slow() -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ledger.append("cancelled")
                raise

        try:
            await step.within("limit", "10 seconds", step.run("slow", slow))
        except StepTimeoutError:
            return "timeout"
        return "in time"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await asyncio.wait_for(began.wait(), 5)
        t.clock.move_to(t.clock.now() + 10_000_000)

        assert await execution.result(5) == "timeout"
        assert {step.path: step.status for step in await execution.steps()} == {"limit": "failed", "slow": "cancelled"}

    assert ledger == ["cancelled"]


@pytest.mark.guarantee("G6")
async def test_deadline_is_kept_over_crashes() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.within("limit", "1 minute", step.sleep("nap", "1 hour"))

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        for _ in range(5):
            await t.advance("10 seconds")
            await t.crash()
        await t.advance("1 hour")

        assert await finished_at(t, execution.id) == timedelta(minutes=1)


@pytest.mark.guarantee("G6")
async def test_deadline_is_kept_over_a_restart(tmp_path: Path) -> None:
    app, database = App(), f"sqlite:///{tmp_path / 'test.db'}"

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.within("limit", "1 minute", step.sleep("nap", "1 hour"))

    async with sandbox(app, database=database) as t:
        execution = await workflow.trigger()
        await t.advance("10 seconds")
    async with sandbox(app, database=database, start=START + timedelta(seconds=50)) as t:
        await t.advance("1 hour")

        assert await finished_at(t, execution.id) == timedelta(minutes=1)


@pytest.mark.parametrize(("limit", "nap", "wakes"), [("1 hour", "2 hours", 1), ("2 hours", "1 hour", 1)])
async def test_block_that_waits_leaves_memory_until_the_earlier_of_both(limit: str, nap: str, wakes: int) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.within("limit", limit, step.sleep("nap", nap))

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        info = await execution.info()
        assert (in_memory(t), info.status, info.wake_at) == (set(), "sleeping", START + timedelta(hours=wakes))

        await t.advance("1 day")
        assert await finished_at(t, execution.id) == timedelta(hours=wakes)


async def test_block_that_had_ended_before_a_crash_is_in_time_however_late_the_replay(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def block() -> str:
            await asyncio.gather(*(step.run(f"note {n}", ledger.note, str(n)) for n in range(3)))
            return "in time"

        value = await step.within("limit", "10 seconds", block())
        await step.sleep("nap", "1 hour")
        return value

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        await t.crash()
        await t.advance("1 hour")
        assert await execution.result(5) == "in time"

    assert sorted(ledger) == ["0", "1", "2"]


async def test_repeated_name_gives_the_first_result(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> list[str]:
        async def block(text: str) -> str:
            return await step.run(f"note {text}", ledger.note, text)

        first = await step.within("limit", "1 hour", block("a"))
        second = await step.within("limit", "1 hour", block("b"))
        third = await asyncio.gather(
            step.within("both", "1 hour", block("c")), step.within("both", "1 hour", block("d"))
        )
        await step.sleep("nap", "1 hour")
        return [first, second, *third]

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("1 hour")

        assert await execution.result(5) == ["a", "a", "c", "c"]

    assert ledger == ["a", "c"]


async def test_nested_deadlines_end_the_inner_first() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> list[str]:
        log: list[str] = []

        async def inner() -> None:
            try:
                await step.within("inner", "10 seconds", step.sleep("nap", "1 day"))
            except StepTimeoutError:
                log.append("inner")
            await step.sleep("more", "1 day")

        try:
            await step.within("outer", "1 minute", inner())
        except StepTimeoutError:
            log.append("outer")
        return log

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("1 day")

        assert await execution.result(5) == ["inner", "outer"]
        assert await finished_at(t, execution.id) == timedelta(minutes=1)


async def test_zero_deadline_is_over_at_once() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        try:
            await step.within("limit", 0, step.sleep("nap", "1 hour"))
        except StepTimeoutError:
            return "timeout"
        return "in time"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        assert await execution.result(5) == "timeout"


@pytest.mark.parametrize(("name", "limit"), [("limit", "soon"), ("limit", -1), ("", "1 hour"), ("a" * 201, "1 hour")])
async def test_refused_call_closes_its_block(name: str, limit: str | int) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        try:
            await step.within(name, limit, step.sleep("nap", "1 hour"))
        except ValueError:
            return "refused"
        return "taken"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        assert await execution.result(5) == "refused"
        assert await execution.steps() == []


async def test_block_is_cancelled_with_its_caller(ledger: Ledger) -> None:
    app, began = App(), asyncio.Event()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def slow() -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ledger.append("body ended")

        task = asyncio.create_task(step.within("limit", "1 hour", step.run("slow", slow)))
        await began.wait()
        task.cancel()
        await asyncio.wait([task])
        return "cancelled" if task.cancelled() else "not cancelled"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        assert await execution.result(5) == "cancelled"
        assert {step.path: step.status for step in await execution.steps()} == {
            "limit": "cancelled",
            "slow": "cancelled",
        }
        await t.settle()

    assert ledger == ["body ended"]


# In threads


async def test_sync_block_gives_its_value(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> str:
        def block() -> str:
            step.sleep("nap", "10 seconds")
            return step.run("note", ledger.note_in_thread, "note")

        value = step.within("limit", "1 minute", block)
        step.sleep("later", "1 day")
        return value

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("1 minute")
        await t.crash()
        await t.advance("1 day")

        assert await execution.result(5) == "note"

    assert ledger == ["note"]


@pytest.mark.parametrize("limit", ["3 seconds", "1 hour"])
async def test_sync_block_that_takes_too_long_raises(ledger: Ledger, limit: str) -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> str:
        def block() -> None:
            ledger.append("block")
            step.sleep("nap", "1 day")
            step.run("never", ledger.note_in_thread, "never")

        try:
            step.within("limit", limit, block)
        except StepTimeoutError:
            step.sleep("later", "7 days")
            return "timeout"
        return "in time"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("2 hours")
        entered = len(ledger)
        await t.advance("8 days")

        assert await execution.result(5) == "timeout"
        statuses = {step.path: step.status for step in await execution.steps()}
        assert statuses == {"limit": "failed", "nap": "cancelled", "later": "completed"}

    assert (len(ledger), set(ledger)) == (entered, {"block"})


async def test_function_instead_of_a_coroutine_is_refused() -> None:
    app = App()

    async def block() -> None: ...

    @app.workflow
    async def workflow(step: Step) -> str:
        try:
            await step.within("limit", "1 hour", cast("Any", block))
        except TypeError as error:
            return str(error)
        return "taken"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        assert "coroutine" in await execution.result(5)


async def test_what_is_no_function_is_refused_in_plain_workflows() -> None:
    app = App()
    called: Any = 3

    @app.workflow
    def workflow(step: SyncStep) -> list[str]:
        refused: list[str] = []
        for call in (lambda: step.within("limit", 5, called), lambda: step.race("race", a=lambda: 1, b=called)):
            try:
                call()
            except TypeError as error:
                refused.append(str(error))
        return refused

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        for verb, refused in zip(("within", "race"), await execution.result(), strict=True):
            assert re.match(f"step.{verb} of a plain workflow takes functions .* got 3", refused)
        assert await execution.steps() == []
