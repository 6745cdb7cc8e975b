"""Cancelling: by handle, at once and finally; and by workflow code, which records the step as cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import cast

import pytest

from stepwell import App, Execution, Step, SyncStep, Workflow
from stepwell.errors import ExecutionCancelledError, ExecutionNotFoundError, InvalidTransitionError, StepwellError
from stepwell.testing import sandbox
from tests.engine.conftest import Ledger, in_memory, statuses, until

pytestmark = pytest.mark.anyio


def hanging(app: App, ledger: Ledger) -> Workflow[None, None]:
    """A workflow whose first step never ends; it notes when the body begins, is cancelled, and what comes after."""

    @app.workflow
    async def workflow(step: Step) -> None:
        async def hang() -> None:
            ledger.append("began")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ledger.append("cancelled")
                raise

        try:
            await step.run("hang", hang)
        finally:
            await step.run("after", ledger.note, "after")

    @workflow.on_error
    async def clean_up(step: Step, error: BaseException) -> None:
        ledger.append("on_error")

    return workflow


# By handle


@pytest.mark.guarantee("G8")
async def test_cancelled_while_queued_never_starts(ledger: Ledger) -> None:
    app = App()
    workflow = hanging(app, ledger)

    async with sandbox(app) as t:
        execution = await workflow.trigger(delay="1 hour")
        await execution.cancel("changed my mind")
        await t.advance("2 hours")

        info = await execution.info()
        assert (info.status, info.reason, info.started_at) == ("cancelled", "changed my mind", None)
        with pytest.raises(ExecutionCancelledError, match="changed my mind") as cancelled:
            await execution.result(5)
        assert cancelled.value.reason == "changed my mind"

    assert ledger == []


@pytest.mark.parity("P1.7")
@pytest.mark.guarantee("G8")
async def test_running_body_is_cancelled_at_once_and_nothing_else_starts(ledger: Ledger) -> None:
    app = App()
    workflow = hanging(app, ledger)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        await execution.cancel()
        assert await execution.status() == "cancelled"
        await t.settle()

        assert in_memory(t) == set()
        assert set((await statuses(execution)).values()) <= {"cancelled"}
        with pytest.raises(ExecutionCancelledError):
            await execution.result(5)

    assert ledger == ["began", "cancelled"]


@pytest.mark.guarantee("G8")
async def test_late_result_of_a_thread_is_thrown_away(ledger: Ledger) -> None:
    app, began, may_end = App(), threading.Event(), threading.Event()

    def slow() -> str:
        began.set()
        may_end.wait(10)
        return ledger.note_in_thread("late")

    @app.workflow
    async def workflow(step: Step) -> str:
        await step.run("slow", slow)
        return await step.run("after", ledger.note, "after")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(began.is_set)
        await execution.cancel()
        may_end.set()
        await until(lambda: ledger)
        await t.settle()

        assert (await execution.status(), (await execution.info()).output) == ("cancelled", None)
        assert "completed" not in (await statuses(execution)).values()

    assert ledger == ["late"]


@pytest.mark.guarantee("G8")
async def test_sync_workflow_starts_no_further_step(ledger: Ledger) -> None:
    app, began, may_end, ended = App(), threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        may_end.wait(10)

    @app.workflow
    def workflow(step: SyncStep) -> None:
        try:
            step.run("slow", slow)
            step.run("after", ledger.note_in_thread, "after")
        finally:
            with contextlib.suppress(BaseException):
                step.run("cleanup", ledger.note_in_thread, "cleanup")
            ended.set()

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(began.is_set)
        await execution.cancel()
        assert await execution.status() == "cancelled"
        may_end.set()
        await until(ended.is_set)
        await t.settle()

        assert await execution.status() == "cancelled"

    assert ledger == []


@pytest.mark.parametrize("pause", ["3 seconds", "1 hour"])
@pytest.mark.guarantee("G8")
async def test_cancelled_while_sleeping(ledger: Ledger, pause: str) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.sleep("nap", pause)
        await step.run("after", ledger.note, "after")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        await execution.cancel()
        assert await statuses(execution) == {"nap": "cancelled"}
        await t.advance("2 hours")

        info = await execution.info()
        assert (info.status, info.wake_at, in_memory(t)) == ("cancelled", None, set())

    assert ledger == []


@pytest.mark.parametrize("delay", ["3 seconds", "1 hour"])
async def test_cancelled_in_backoff(ledger: Ledger, delay: str) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        async def failing() -> None:
            ledger.append("attempt")
            raise RuntimeError("of the user")

        await step.run("failing", failing, retry_delay=delay, max_delay="1 day")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        assert await statuses(execution) == {"failing": "retrying"}
        await execution.cancel()
        await t.advance("1 day")

        assert (await execution.status(), await statuses(execution)) == ("cancelled", {"failing": "cancelled"})

    assert ledger == ["attempt"]


async def test_completed_steps_stay_completed(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        async def outer() -> None:
            await step.run("inner", ledger.note, "inner")
            await step.sleep("nap", "1 hour")

        await step.run("first", ledger.note, "first")
        await step.run("outer", outer)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        await execution.cancel()

        assert await statuses(execution) == {
            "first": "completed",
            "outer": "cancelled",
            "outer/inner": "completed",
            "outer/nap": "cancelled",
        }


async def test_every_branch_is_ended(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        async def hang(number: int) -> None:
            ledger.append("began")
            try:
                await asyncio.Event().wait()
            finally:
                ledger.append("ended")

        orphan = asyncio.create_task(step.run("orphan", hang, 0))
        await asyncio.gather(*(step.run(f"hang {n}", hang, n) for n in range(3)), step.sleep("nap", "1 hour"))
        await orphan

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger == ["began"] * 4)
        await execution.cancel()
        await t.settle()

        assert in_memory(t) == set()
        assert set((await statuses(execution)).values()) <= {"cancelled"}

    assert ledger == ["began"] * 4 + ["ended"] * 4


async def test_code_that_swallows_the_cancellation_changes_nothing(ledger: Ledger) -> None:
    app, began = App(), asyncio.Event()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def hang() -> str:
            began.set()
            try:
                await asyncio.Event().wait()
            except BaseException:
                return "swallowed"
            return "never"

        try:
            return await step.run("hang", hang)
        except BaseException:
            return await step.run("after", ledger.note, "after")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await began.wait()
        await execution.cancel()
        await t.settle()

        assert (await execution.status(), (await execution.info()).output) == ("cancelled", None)

    assert ledger == []


async def test_on_error_does_not_run(ledger: Ledger) -> None:
    app = App()
    workflow = hanging(app, ledger)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        await execution.cancel()
        await t.settle()
        await t.crash()
        await t.advance("1 day")

        assert await execution.status() == "cancelled"

    assert "on_error" not in ledger


async def test_cancelled_during_on_error_is_cancelled(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        raise RuntimeError("of the user")

    @workflow.on_error
    async def clean_up(step: Step, error: BaseException) -> None:
        await step.sleep("nap", "1 hour")
        await step.run("after", ledger.note, "after")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        await execution.cancel()
        await t.advance("1 day")

        assert await execution.status() == "cancelled"

    assert ledger == []


async def test_cancelling_twice_is_fine_and_keeps_the_first_reason() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.sleep("nap", "1 hour")

    async with sandbox(app):
        execution = await workflow.trigger()
        await execution.cancel("first")
        await execution.cancel("second")

        assert (await execution.info()).reason == "first"


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize("reason", ["\ud800", "\x00", 5, "a" * 2_000_000], ids=["surrogate", "zero", "number", "long"])
async def test_reason_that_cannot_be_stored_is_refused(reason: object, ledger: Ledger) -> None:
    app = App()
    workflow = hanging(app, ledger)

    async with sandbox(app):
        execution = await workflow.trigger(delay="1 hour")
        with pytest.raises(StepwellError, match="reason"):
            await execution.cancel(cast("str", reason))

        assert await execution.status() == "queued"


@pytest.mark.guarantee("G5")
@pytest.mark.parametrize("outcome", ["completed", "failed"])
async def test_ended_execution_cannot_be_cancelled(outcome: str) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step, outcome: str) -> None:
        if outcome == "failed":
            raise RuntimeError("of the user")

    async with sandbox(app) as t:
        execution = await workflow.trigger(outcome)
        await t.settle()
        with pytest.raises(InvalidTransitionError) as refused:
            await execution.cancel()

        assert (refused.value.status, refused.value.execution_id) == (outcome, execution.id)
        assert await execution.status() == outcome


async def test_unknown_execution_is_not_found() -> None:
    app = App()
    workflow = hanging(app, Ledger())

    async with sandbox(app):
        for call in (workflow.get_execution("nobody").cancel(), workflow.cancel("nobody")):
            with pytest.raises(ExecutionNotFoundError, match="nobody"):
                await call


async def test_workflow_cancel_takes_an_id_and_a_reason(ledger: Ledger) -> None:
    app = App()
    workflow = hanging(app, ledger)

    async with sandbox(app) as t:
        execution = await workflow.trigger(id="order-17")
        await workflow.cancel("order-17", "sold out")
        await t.settle()

        info = await execution.info()
        assert (info.status, info.reason) == ("cancelled", "sold out")


async def test_waiting_caller_hears_of_the_cancel_at_once(ledger: Ledger) -> None:
    app = App()
    workflow = hanging(app, ledger)

    async with sandbox(app):
        execution = await workflow.trigger()
        waiting = asyncio.create_task(execution.result())
        await until(lambda: ledger)
        await execution.cancel("enough")

        with pytest.raises(ExecutionCancelledError, match="enough"):
            await asyncio.wait_for(waiting, 0.5)


async def test_cancelled_execution_stays_so_after_a_crash(ledger: Ledger) -> None:
    app = App()
    workflow = hanging(app, ledger)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        await execution.cancel()
        await t.crash()
        await t.advance("1 hour")

        assert await execution.status() == "cancelled"

    assert ledger.count("began") == 1


@pytest.mark.guarantee("G5")
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_what_cancel_answers_is_true_however_it_races_with_the_end(kind: str) -> None:
    app = App()

    async def body() -> int:
        await asyncio.sleep(0)
        return 1

    if kind == "async":

        @app.workflow
        async def workflow(step: Step) -> int:
            return await step.run("first", body) + await step.run("second", body)
    else:

        @app.workflow
        def workflow(step: SyncStep) -> int:
            return step.run("first", int) + step.run("second", body) + 1

    async def cancelled_after(turns: int, execution: Execution[int]) -> bool:
        for _ in range(turns):
            await asyncio.sleep(0)
        try:
            await execution.cancel()
        except InvalidTransitionError:
            return False
        return True

    answers: list[bool] = []
    async with sandbox(app) as t:
        for turns in range(0, 120, 2):
            execution = await workflow.trigger()
            cancelled = await cancelled_after(turns, execution)
            answers.append(cancelled)
            if cancelled:
                with pytest.raises(ExecutionCancelledError):
                    await execution.result(5)
            else:
                assert await execution.result(5) == 2
            await t.settle()
            assert await execution.status() == ("cancelled" if cancelled else "completed")

    assert any(answers)


# By workflow code


async def test_failed_sibling_cancels_the_others(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def slow() -> None:
            ledger.append("slow began")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ledger.append("slow cancelled")
                raise

        async def failing() -> None:
            ledger.append("failing")
            raise RuntimeError("of the user")

        caught = 0
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(step.run("slow", slow))
                group.create_task(step.sleep("nap", "1 hour"))
                group.create_task(step.run("failing", failing, retries=0))
        except* RuntimeError:
            caught = 1
        await step.sleep("later", "1 day")
        return f"caught {caught}"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: "slow cancelled" in ledger)
        await t.settle()
        recorded = {"slow": "cancelled", "nap": "cancelled", "failing": "failed", "later": "sleeping"}
        assert await statuses(execution) == recorded
        await t.crash()
        await t.advance("1 day")

        assert await execution.result(5) == "caught 1"
        assert await statuses(execution) == {**recorded, "later": "completed"}

    assert sorted(ledger) == ["failing", "slow began", "slow cancelled"]


async def test_timeout_around_a_step_records_it_as_cancelled(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def hang() -> None:
            ledger.append("began")
            await asyncio.Event().wait()

        try:
            async with asyncio.timeout(0.02):
                await step.run("hang", hang)
        except TimeoutError:
            await step.sleep("nap", "1 hour")
            return "timeout"
        return "in time"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: not in_memory(t) and ledger)
        assert await statuses(execution) == {"hang": "cancelled", "nap": "sleeping"}
        await t.advance("1 hour")

        assert await execution.result(5) == "timeout"

    assert ledger == ["began"]


async def test_replay_waits_to_be_cancelled_again(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def hang() -> None:
            ledger.append("began")
            await asyncio.Event().wait()

        task = asyncio.create_task(step.run("hang", hang))
        await asyncio.sleep(0.02)
        ended_by_itself = task.done()
        task.cancel()
        await asyncio.wait([task])
        await step.sleep("nap", "1 hour")
        return f"{ended_by_itself} {task.cancelled()}"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: not in_memory(t) and ledger)
        await t.advance("1 hour")

        assert await execution.result(5) == "False True"
        assert (await statuses(execution))["hang"] == "cancelled"

    assert ledger == ["began"]


async def test_task_cancelled_before_its_first_turn_leaves_no_step(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        task = asyncio.create_task(step.run("note", ledger.note, "note"))
        task.cancel()
        await asyncio.wait([task])
        return await step.run("after", ledger.note, "after")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        assert (await execution.result(5), await statuses(execution)) == ("after", {"after": "completed"})

    assert ledger == ["after"]


async def test_one_of_two_waiters_is_cancelled_and_the_body_goes_on(ledger: Ledger) -> None:
    app, may_end = App(), asyncio.Event()

    @app.workflow
    async def workflow(step: Step) -> list[object]:
        async def slow() -> str:
            ledger.append("began")
            await may_end.wait()
            return "value"

        first = asyncio.create_task(step.run("slow", slow))
        await until(lambda: ledger)
        second = asyncio.create_task(step.run("slow", slow))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        may_end.set()
        return [first.cancelled(), await second]

    async with sandbox(app) as t:
        execution = await workflow.trigger()

        assert await execution.result(5) == [True, "value"]
        await t.settle()
        assert await statuses(execution) == {"slow": "completed"}

    assert ledger == ["began"]


async def test_last_waiter_takes_the_body_along(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def hang() -> None:
            ledger.append("began")
            try:
                await asyncio.Event().wait()
            finally:
                ledger.append("ended")

        tasks = [asyncio.create_task(step.run("hang", hang)) for _ in range(2)]
        await until(lambda: ledger)
        for task in tasks:
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait(tasks)
        return "end"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        assert await execution.result(5) == "end"
        await t.settle()
        assert await statuses(execution) == {"hang": "cancelled"}

    assert ledger == ["began", "ended"]


async def test_cancelled_backoff_is_recorded_as_cancelled(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def failing() -> None:
            ledger.append("attempt")
            raise RuntimeError("of the user")

        task = asyncio.create_task(step.run("failing", failing, retry_delay="3 seconds"))
        await until(lambda: ledger)
        await step.sleep("nap", 1)
        task.cancel()
        await asyncio.wait([task])
        await step.sleep("later", "1 hour")
        return "cancelled" if task.cancelled() else "ended"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("2 hours")

        assert await execution.result(5) == "cancelled"
        assert (await statuses(execution))["failing"] == "cancelled"

    assert ledger == ["attempt"]
