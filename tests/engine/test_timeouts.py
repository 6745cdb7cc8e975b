"""Timeouts of one attempt, and of a whole execution."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stepwell import App, Execution, RetryPolicy, Step, StepInfo, SyncStep, current_step
from stepwell.duration import to_us
from stepwell.errors import ExecutionFailedError, ExecutionTimeoutError, InvalidInputError, StepTimeoutError
from stepwell.testing import Tester, sandbox

AT_ONCE = RetryPolicy(delay=0)


async def the_step(execution: Execution[Any], path: str) -> StepInfo:
    return next(step for step in await execution.steps() if step.path == path)


def move(tester: Tester, duration: str) -> None:
    """Let time pass while a body runs; `advance` would wait for the body first."""
    tester.clock.move_to(tester.clock.now() + to_us(duration))


async def moments(number: int = 20) -> None:
    """Let everything run that is ready."""
    for _ in range(number):
        await asyncio.sleep(0.001)


class Hanging:
    """An async body that hangs in its first attempts and counts them."""

    def __init__(self, hangs: int = 1_000) -> None:
        self.attempts: list[int] = []
        self.ended: list[str] = []
        self.started = asyncio.Event()
        self._hangs = hangs

    async def __call__(self) -> str:
        self.attempts.append(current_step().attempt)
        self.started.set()
        if len(self.attempts) <= self._hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.ended.append("cancelled")
                raise
        return "done"


# ------------------------------------------------------------------------------------------------- one attempt


@pytest.mark.parity("P3.4")
async def test_an_attempt_that_takes_too_long_is_cancelled_and_fails() -> None:
    app, body = App(), Hanging()
    seen: list[BaseException] = []

    @app.workflow
    async def flow(step: Step) -> None:
        try:
            await step.run("slow", body, timeout="2 seconds", retries=0)
        except TimeoutError as error:
            seen.append(error)
        await step.sleep("pause", "1 hour")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await body.started.wait()
        move(t, "1999 ms")
        await moments()
        assert body.ended == []
        move(t, "1 ms")
        await t.advance("1 hour")
        await execution.result()
    assert body.attempts == [1]
    assert body.ended == ["cancelled"]
    for error in seen:
        assert type(error) is StepTimeoutError
        assert "'slow'" in str(error)
        assert (error.path, error.seconds) == ("slow", 2)
    assert len(seen) == 2
    assert str(seen[0]) == str(seen[1])


async def test_a_timed_out_attempt_is_tried_again_with_a_new_timeout() -> None:
    app, body = App(), Hanging(2)

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("slow", body, timeout="2 seconds", retries=AT_ONCE)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        for _ in range(2):
            await body.started.wait()
            body.started.clear()
            move(t, "2 seconds")
        assert await execution.result() == "done"
        step = await the_step(execution, "slow")
    assert body.attempts == [1, 2, 3]
    assert [attempt.error.type.rpartition(".")[2] for attempt in step.attempts] == ["StepTimeoutError"] * 2
    assert [attempt.finished_at - attempt.started_at for attempt in step.attempts] == [timedelta(seconds=2)] * 2


async def test_a_timeout_does_not_count_the_backoff() -> None:
    app = App()
    attempts: list[int] = []

    async def body() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError
        return "done"

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("slow", body, timeout="500 ms", retry_delay=3)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("1 minute")
        assert await execution.result() == "done"


async def test_a_body_that_ends_in_time_is_not_disturbed_later() -> None:
    app = App()

    async def quick() -> str:
        return "quick"

    @app.workflow
    async def flow(step: Step) -> str:
        value = await step.run("quick", quick, timeout="1 second")
        await step.sleep("pause", "3 seconds")
        return value

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("3 seconds")
        assert await execution.result() == "quick"


async def test_a_thread_body_that_timed_out_goes_on_and_its_late_result_is_dropped() -> None:
    app, release, late = App(), threading.Event(), threading.Event()
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    attempts: list[int] = []

    def body() -> str:
        attempts.append(current_step().attempt)
        if len(attempts) > 1:
            return "second"
        loop.call_soon_threadsafe(started.set)
        release.wait()
        late.set()
        return "first, late"

    @app.workflow
    async def flow(step: Step) -> str:
        value = await step.run("slow", body, timeout="2 seconds", retries=AT_ONCE)
        await step.sleep("pause", "1 hour")
        return value

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await started.wait()
        move(t, "2 seconds")
        await t.settle()
        release.set()
        await asyncio.to_thread(late.wait)
        await moments()
        assert (await the_step(execution, "slow")).output == "second"
        await t.advance("1 hour")
        assert await execution.result() == "second"
    assert attempts == [1, 2]


async def test_the_last_attempt_of_a_thread_body_may_time_out_too() -> None:
    app, release, started = App(), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def body() -> str:
        loop.call_soon_threadsafe(started.set)
        release.wait()
        return "late"

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("slow", body, timeout="2 seconds", retries=0)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await started.wait()
        move(t, "2 seconds")
        with pytest.raises(ExecutionFailedError) as caught:
            await execution.result()
        release.set()
        await moments()
        assert await execution.status() == "failed"
    assert type(caught.value.__cause__) is StepTimeoutError


@pytest.mark.guarantee("G6")
async def test_a_crash_begins_the_attempt_anew_with_a_new_timeout() -> None:
    app, body = App(), Hanging()

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("slow", body, timeout="10 seconds", retries=0)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await body.started.wait()
        move(t, "9 seconds")
        body.started.clear()
        await t.crash()
        await body.started.wait()
        move(t, "9 seconds")
        await moments()
        assert await execution.status() == "running"
        move(t, "1 second")
        with pytest.raises(ExecutionFailedError, match="'slow'"):
            await execution.result()
    assert body.attempts == [1, 1]


async def test_the_bodys_own_timeout_error_is_not_taken_for_the_steps() -> None:
    app = App()

    async def body() -> None:
        raise TimeoutError("from the library")

    @app.workflow
    async def flow(step: Step) -> str:
        try:
            await step.run("slow", body, timeout="2 seconds", retries=0)
        except TimeoutError as error:
            return type(error).__name__
        return "no error"

    async with sandbox(app):
        assert await (await flow.trigger()).result() == "TimeoutError"


async def test_a_body_may_clean_up_when_its_time_is_over() -> None:
    app, started = App(), asyncio.Event()
    events: list[str] = []

    async def body() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            events.append("cleaned up")

    @app.workflow
    async def flow(step: Step) -> str:
        try:
            await step.run("slow", body, timeout="2 seconds", retries=0)
        except StepTimeoutError:
            events.append("raised")
        return "went on"

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await started.wait()
        move(t, "2 seconds")
        assert await execution.result() == "went on"
    assert events == ["cleaned up", "raised"]


@pytest.mark.guarantee("G2")
async def test_a_body_that_ends_despite_its_timeout_gives_the_same_live_and_on_replay() -> None:
    app, started = App(), asyncio.Event()
    runs: list[str] = []
    seen: list[str] = []

    async def stubborn() -> str:
        runs.append("run")
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "ended anyway"
        return "never"

    @app.workflow
    async def flow(step: Step) -> None:
        try:
            seen.append(await step.run("slow", stubborn, timeout="2 seconds", retries=0))
        except StepTimeoutError as error:
            seen.append(str(error))
        await step.sleep("pause", "1 hour")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await started.wait()
        move(t, "2 seconds")
        await t.advance("1 hour")
        await execution.result()
    assert runs == ["run"]
    assert seen[0] == seen[1]


async def test_timeouts_in_parallel_branches_hit_only_their_own_step() -> None:
    app, slow, release = App(), Hanging(), asyncio.Event()

    async def patient() -> str:
        await release.wait()
        return "patient"

    @app.workflow
    async def flow(step: Step) -> list[str]:
        results = await asyncio.gather(
            step.run("slow", slow, timeout="2 seconds", retries=0),
            step.run("patient", patient, timeout="1 minute"),
            return_exceptions=True,
        )
        return [type(result).__name__ if isinstance(result, BaseException) else result for result in results]

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await slow.started.wait()
        move(t, "2 seconds")
        await moments()
        release.set()
        assert await execution.result() == ["StepTimeoutError", "patient"]


async def test_a_parent_that_timed_out_cancels_its_child_and_runs_it_again_in_the_next_attempt() -> None:
    app, child = App(), Hanging(1)

    async def parent() -> str:
        return await current_step().run("child", child)

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("parent", parent, timeout="2 seconds", retries=AT_ONCE)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await child.started.wait()
        move(t, "2 seconds")
        assert await execution.result(timeout=5) == "done"
    assert child.ended == ["cancelled"]
    assert len(child.attempts) == 2


def test_plain_workflows_time_out_too() -> None:
    app, release = App(database="sqlite://"), threading.Event()

    @app.workflow
    def flow(step: SyncStep) -> str:
        try:
            step.run("slow", release.wait, timeout=0.05, retries=0, executor="thread")
        except StepTimeoutError as error:
            return str(error)
        finally:
            release.set()
        return "no error"

    assert "'slow'" in app.execute(flow)


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize("timeout", [0, -1, "soon", "0 seconds"])
async def test_a_bad_timeout_of_a_step_is_refused(timeout: Any) -> None:
    app, body = App(), Hanging(0)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("x", body, timeout=timeout)

    async with sandbox(app):
        with pytest.raises(ExecutionFailedError) as caught:
            await (await flow.trigger()).result()
    assert isinstance(caught.value.__cause__, InvalidInputError)
    assert body.attempts == []


# ------------------------------------------------------------------------------------------------- an execution


async def assert_timed_out(execution: Execution[Any]) -> None:
    with pytest.raises(ExecutionFailedError) as caught:
        await execution.result()
    info = await execution.info()
    assert info.status == "failed"
    assert info.error is not None
    assert info.error.type.rpartition(".")[2] == "ExecutionTimeoutError"
    assert isinstance(caught.value.__cause__, ExecutionTimeoutError)


@pytest.mark.parity("P5.1")
async def test_an_execution_that_takes_too_long_fails_while_a_body_runs() -> None:
    app, body = App(), Hanging()

    @app.workflow(timeout="10 seconds")
    async def flow(step: Step) -> None:
        await step.run("slow", body)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await body.started.wait()
        move(t, "9999 ms")
        await moments()
        assert await execution.status() == "running"
        move(t, "1 ms")
        await assert_timed_out(execution)
        assert all(step.status == "cancelled" for step in await execution.steps())
    assert body.ended == ["cancelled"]


@pytest.mark.guarantee("G6")
@pytest.mark.parity("P5.1")
@pytest.mark.parametrize("wait", ["30 minutes", "20 minutes"])
async def test_waiting_counts(wait: str) -> None:
    app = App()

    @app.workflow(timeout="30 minutes")
    async def flow(step: Step) -> None:
        while True:
            await step.sleep(wait)

    async with sandbox(app) as t:
        began = t.clock.now()
        execution = await flow.trigger()
        await t.advance("29 minutes")
        assert await execution.status() == "sleeping"
        await t.advance("2 minutes")
        await assert_timed_out(execution)
        finished_at = (await execution.info()).finished_at
    assert finished_at is not None
    assert finished_at.timestamp() * 1_000_000 - began == to_us("30 minutes")


@pytest.mark.guarantee("G6")
async def test_a_sleep_that_ends_after_the_timeout_is_cut_short() -> None:
    app = App()
    after: list[str] = []

    @app.workflow(timeout="10 minutes")
    async def flow(step: Step) -> None:
        await step.sleep("1 hour")
        after.append("slept")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("10 minutes")
        await assert_timed_out(execution)
    assert after == []


async def test_the_backoff_counts() -> None:
    app = App()

    async def fail() -> None:
        raise ConnectionError

    @app.workflow(timeout="1 minute")
    async def flow(step: Step) -> None:
        await step.run("fail", fail, retries=100)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("1 minute")
        await assert_timed_out(execution)


async def test_a_timeout_counts_from_the_first_start_not_from_the_trigger() -> None:
    app = App()

    @app.workflow(timeout="10 minutes")
    async def flow(step: Step) -> str:
        await step.sleep("9 minutes")
        return "in time"

    async with sandbox(app) as t:
        execution = await flow.trigger(delay="1 hour")
        await t.advance("69 minutes")
        assert await execution.result() == "in time"


async def test_a_triggers_timeout_replaces_that_of_the_workflow() -> None:
    app = App()

    @app.workflow(timeout="1 minute")
    async def flow(step: Step) -> str:
        await step.sleep("10 minutes")
        return "done"

    async with sandbox(app) as t:
        longer, shorter = await flow.trigger(timeout="1 hour"), await flow.trigger(timeout="10 seconds")
        await t.advance("10 seconds")
        assert await shorter.status() == "failed"
        await t.advance("10 minutes")
        assert await longer.result() == "done"


@pytest.mark.guarantee("G6")
@pytest.mark.parametrize("seconds", [3, 3600])
async def test_a_crash_does_not_prolong_the_timeout(seconds: int) -> None:
    app = App()

    @app.workflow(timeout=seconds)
    async def flow(step: Step) -> None:
        await step.sleep("1 day")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(seconds / 2)
        await t.crash()
        await t.advance(seconds / 2 - 0.001)
        assert await execution.status() == "sleeping"
        await t.advance(0.001)
        await assert_timed_out(execution)


@pytest.mark.guarantee("G6")
async def test_a_crash_while_a_body_runs_does_not_prolong_the_timeout_of_the_execution() -> None:
    app, body = App(), Hanging()

    @app.workflow(timeout="10 minutes")
    async def flow(step: Step) -> None:
        await step.run("slow", body)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await body.started.wait()
        move(t, "6 minutes")
        body.started.clear()
        await t.crash()
        await body.started.wait()
        move(t, "3 minutes")
        await moments()
        assert await execution.status() == "running"
        move(t, "1 minute")
        await assert_timed_out(execution)


@pytest.mark.guarantee("G6")
async def test_a_timeout_that_passed_while_nobody_ran_is_noticed_before_anything_runs(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/x.db"
    entries: list[str] = []

    def program() -> App:
        app = App()

        @app.workflow(timeout="10 minutes")
        async def flow(step: Step) -> None:
            entries.append("entered")
            await step.sleep("5 minutes")

        return app

    first, second = program(), program()
    async with sandbox(first, database=database) as t:
        execution = await first.workflows["flow"].trigger(None, id="e")
        await t.settle()
        later = (await execution.info()).created_at + timedelta(hours=1)
    async with sandbox(second, database=database, start=later):
        await assert_timed_out(second.get_execution("e"))
    assert entries == ["entered"]


@pytest.mark.usefixtures("short_unwinding")
@pytest.mark.parametrize("swallow", ["except", "finally", "loop"])
async def test_code_cannot_swallow_the_timeout(swallow: str) -> None:
    app = App()
    after: list[str] = []
    over = asyncio.Event()

    async def note() -> None:
        after.append("ran")

    @app.workflow(timeout="10 seconds")
    async def flow(step: Step) -> str:
        while True:
            try:
                await step.sleep("pause", "3 minutes")
            except BaseException:
                if swallow == "loop" and not over.is_set():
                    continue
                if swallow == "except":
                    await step.run("after", note)
                    return "swallowed"
                raise
            finally:
                if swallow == "finally":
                    raise RuntimeError("from finally")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("10 seconds")
        await assert_timed_out(execution)
        over.set()
    assert after == []


async def test_late_results_of_a_thread_are_thrown_away() -> None:
    app, release, started = App(), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def body() -> str:
        loop.call_soon_threadsafe(started.set)
        release.wait()
        return "value"

    @app.workflow(timeout="10 seconds")
    async def flow(step: Step) -> str:
        return await step.run("slow", body)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await started.wait()
        move(t, "10 seconds")
        await moments()
        release.set()
        await assert_timed_out(execution)
        await moments()
        assert await execution.status() == "failed"
        assert all(step.output is None for step in await execution.steps())


async def test_on_error_runs_after_a_timeout_and_outside_of_it() -> None:
    app = App()
    seen: list[BaseException] = []

    async def clean() -> str:
        return "cleaned"

    @app.workflow(timeout="10 seconds")
    async def flow(step: Step) -> None:
        await step.sleep("1 hour")

    @flow.on_error
    async def handle(step: Step, error: BaseException) -> None:
        seen.append(error)
        await step.sleep("pause", "1 hour")
        await step.run("clean", clean)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("10 seconds")
        assert await execution.status() == "sleeping"
        await t.advance("1 hour")
        await assert_timed_out(execution)
        assert (await the_step(execution, "#on_error/clean")).status == "completed"
    assert [type(error) for error in seen] == [ExecutionTimeoutError] * 2
    assert isinstance(seen[0], ExecutionTimeoutError)
    assert (seen[0].execution_id, seen[0].seconds) == (execution.id, 10)


async def test_an_execution_that_ended_in_time_stays_completed() -> None:
    app = App()

    @app.workflow(timeout="10 seconds")
    async def flow(step: Step) -> str:
        return "done"

    async with sandbox(app) as t:
        execution = await flow.trigger()
        assert await execution.result() == "done"
        await t.advance("1 minute")
        assert await execution.status() == "completed"


async def test_by_default_nothing_times_out() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        await step.sleep("400 days")
        return "done"

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("400 days")
        assert await execution.result() == "done"


@pytest.mark.parametrize("plain", [False, True], ids=["async", "sync"])
async def test_a_hanging_workflow_function_times_out(plain: bool) -> None:
    app, started, release = App(), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    if plain:

        @app.workflow(name="flow", timeout="10 seconds")
        def flow(step: SyncStep) -> None:
            loop.call_soon_threadsafe(started.set)
            step.sleep("1 hour")

    else:

        @app.workflow(name="flow", timeout="10 seconds")
        async def flow_async(step: Step) -> None:
            started.set()
            await asyncio.Event().wait()

    async with sandbox(app) as t:
        execution = await app.workflows["flow"].trigger(None)
        await started.wait()
        await moments()
        move(t, "10 seconds")
        await assert_timed_out(execution)
    release.set()


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize("timeout", [0, -1, "soon"])
async def test_a_bad_timeout_of_an_execution_is_refused(timeout: Any) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    def define(make: Callable[[], Any]) -> None:
        with pytest.raises(InvalidInputError, match="timeout"):
            make()

    define(lambda: app.workflow(name="other", timeout=timeout))
    async with sandbox(app):
        with pytest.raises(InvalidInputError, match="timeout"):
            await flow.trigger(timeout=timeout)
        assert (await app.list_executions()).executions == []
