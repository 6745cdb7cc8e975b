"""Failed attempts, the waits between them, and who decides that no further one follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stepwell import App, Execution, RetryPolicy, Step, StepInfo, SyncStep, current_step
from stepwell.clock import from_us
from stepwell.errors import ExecutionFailedError, InvalidInputError, NonRetryableError, SerializationError
from stepwell.testing import Tester, sandbox

LONG_ENOUGH = "1 day"
NO_JITTER = RetryPolicy(jitter=0)


class Flaky:
    """A body that fails a number of times and then returns the number of its attempt."""

    def __init__(
        self, failures: int = 1_000, make: Callable[[], BaseException] = lambda: ConnectionError("down")
    ) -> None:
        self.attempts: list[int] = []
        self._failures = failures
        self._make = make

    async def __call__(self) -> int:
        self.attempts.append(current_step().attempt)
        if len(self.attempts) <= self._failures:
            raise self._make()
        return self.attempts[-1]


class NeverError(NonRetryableError):
    """A user's own way to stop."""


async def the_step(execution: Execution[Any], path: str = "flaky") -> StepInfo:
    return next(step for step in await execution.steps() if step.path == path)


def now(tester: Tester) -> datetime:
    return from_us(tester.clock.now())


def flow_of(app: App, body: Callable[[], Any], **options: Any) -> Any:
    """A workflow of one step called `flaky`."""

    @app.workflow
    async def flow(step: Step) -> Any:
        return await step.run("flaky", body, **options)

    return flow


async def gaps(app: App, body: Flaky, **options: Any) -> list[float]:
    """Seconds between the end of an attempt and the start of the next one."""
    flow = flow_of(app, body, **options)
    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(LONG_ENOUGH)
        assert await execution.status() == "failed"
        attempts = (await the_step(execution)).attempts
    return [(after.started_at - before.finished_at).total_seconds() for before, after in pairwise(attempts)]


# ------------------------------------------------------------------------------------------------- counts


@pytest.mark.parity("P1.3")
async def test_by_default_a_step_has_four_attempts() -> None:
    app, body = App(), Flaky()
    flow = flow_of(app, body)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(LONG_ENOUGH)
        with pytest.raises(ExecutionFailedError, match="down"):
            await execution.result()
    assert body.attempts == [1, 2, 3, 4]


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (3, 4), (10, 11)])
@pytest.mark.parity("P3.4")
@pytest.mark.parity("P5.2")
async def test_retries_are_the_attempts_after_the_first(retries: int, attempts: int) -> None:
    app, body = App(), Flaky()
    flow = flow_of(app, body, retries=retries)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(LONG_ENOUGH)
        assert await execution.status() == "failed"
    assert body.attempts == list(range(1, attempts + 1))


@pytest.mark.parity("P1.2")
async def test_the_eleventh_attempt_may_succeed_after_minutes_of_backoff() -> None:
    app, body = App(), Flaky(10)
    flow = flow_of(app, body, retries=10)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("3 minutes")
        assert await execution.status() == "sleeping"
        await t.advance("10 minutes")
        assert await execution.result() == 11


@pytest.mark.parity("P1.2")
@pytest.mark.parametrize(
    ("app_retries", "workflow_retries", "step_retries", "attempts"),
    [
        (None, None, None, 4),
        (1, None, None, 2),
        (1, 2, None, 3),
        (1, 2, 5, 6),
        (5, 0, None, 1),
        (5, 4, 0, 1),
        (0, None, 2, 3),
        (0, 3, None, 4),
    ],
)
async def test_retries_come_from_the_step_then_the_workflow_then_the_app(
    app_retries: Any, workflow_retries: Any, step_retries: Any, attempts: int
) -> None:
    app, body = App(retries=app_retries), Flaky()

    @app.workflow(retries=workflow_retries)
    async def flow(step: Step) -> None:
        await step.run("flaky", body, retries=step_retries)

    async with sandbox(app) as t:
        await flow.trigger()
        await t.advance(LONG_ENOUGH)
    assert len(body.attempts) == attempts


async def test_a_policy_object_sets_everything() -> None:
    policy = RetryPolicy(retries=4, delay="10 seconds", backoff="linear", max_delay="25 seconds", jitter=0)

    assert await gaps(App(), Flaky(), retries=policy) == [10, 20, 25, 25]


async def test_a_policy_of_the_workflow_holds_for_its_steps_and_a_step_changes_parts_of_it() -> None:
    app, first, second = App(), Flaky(), Flaky()

    @app.workflow(retries=RetryPolicy(retries=2, delay="10 seconds", backoff="constant", jitter=0))
    async def flow(step: Step) -> None:
        for name, body, retries in (("first", first, None), ("second", second, 1)):
            with suppress(ConnectionError):
                await step.run(name, body, retries=retries)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(LONG_ENOUGH)
        await execution.result()
        second_attempts = (await the_step(execution, "second")).attempts
    assert (len(first.attempts), len(second.attempts)) == (3, 2)
    assert second_attempts[1].started_at - second_attempts[0].finished_at == timedelta(seconds=10)


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize(
    "options",
    [
        {"retries": -1},
        {"retries": "3"},
        {"retries": True},
        {"retry_delay": "soon"},
        {"backoff": "wild"},
        {"max_delay": -1},
    ],
    ids=repr,
)
async def test_bad_options_are_refused_before_the_body_runs(options: dict[str, Any]) -> None:
    app, body = App(), Flaky(0)
    flow = flow_of(app, body, **options)

    async with sandbox(app):
        execution = await flow.trigger()
        with pytest.raises(ExecutionFailedError) as caught:
            await execution.result()
        assert await execution.steps() == []
    assert isinstance(caught.value.__cause__, InvalidInputError)
    assert body.attempts == []


# ------------------------------------------------------------------------------------------------- delays


@pytest.mark.parity("P1.3")
async def test_default_delays_double_from_one_second_to_thirty_with_jitter_on_top() -> None:
    found = await gaps(App(), Flaky(), retries=8)

    for delay, wanted in zip(found, [1, 2, 4, 8, 16, 30, 30, 30], strict=True):
        assert wanted <= delay <= wanted * 1.25
    assert found != [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"retry_delay": 2}, [2, 4, 8]),
        ({"retry_delay": "10 seconds", "backoff": "constant"}, [10, 10, 10]),
        ({"retry_delay": timedelta(seconds=3), "backoff": "linear"}, [3, 6, 9]),
        ({"retry_delay": 2, "max_delay": "3 seconds"}, [2, 3, 3]),
        ({"retry_delay": 0}, [0, 0, 0]),
    ],
    ids=repr,
)
async def test_delays_follow_the_options(options: dict[str, Any], wanted: list[float]) -> None:
    found = await gaps(App(retries=3), Flaky(), retries=None, **options)

    for delay, least in zip(found, wanted, strict=True):
        assert least <= delay <= least * 1.25


async def test_the_next_attempt_is_shown_with_its_time() -> None:
    app, body = App(), Flaky()
    flow = flow_of(app, body)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        step = await the_step(execution)
    assert (step.status, step.attempt) == ("retrying", 1)
    assert step.wake_at is not None
    assert timedelta(seconds=1) <= step.wake_at - now(t) <= timedelta(seconds=1.25)


@pytest.mark.guarantee("G6")
async def test_no_attempt_starts_before_its_time() -> None:
    app, body = App(), Flaky(1)
    flow = flow_of(app, body, retries=NO_JITTER, retry_delay=4)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(3.999)
        assert body.attempts == [1]
        await t.advance(0.001)
        assert body.attempts == [1, 2]
        assert await execution.result() == 2


async def test_a_short_backoff_stays_in_memory_and_a_long_one_parks() -> None:
    app = App()
    entries: dict[str, int] = {"short": 0, "long": 0}

    def define(name: str, delay: float) -> Any:
        @app.workflow(name=name)
        async def flow(step: Step) -> Any:
            entries[name] += 1
            return await step.run("flaky", Flaky(1), retries=NO_JITTER, retry_delay=delay)

        return flow

    long_body = Flaky(1)

    @app.workflow
    async def parked(step: Step) -> int:
        entries["long"] += 1
        return await step.run("flaky", long_body, retries=NO_JITTER, retry_delay=6)

    short = define("short", 5)
    async with sandbox(app) as t:
        first, second = await short.trigger(), await parked.trigger()
        await t.settle()
        info = await second.info()
        assert (info.status, info.waiting_for) == ("sleeping", "flaky")
        assert info.wake_at == now(t) + timedelta(seconds=6)
        await t.advance(6)
        assert (await first.result(), await second.result()) == (2, 2)
    assert entries == {"short": 1, "long": 2}


# ------------------------------------------------------------------------------------------------- durability


@pytest.mark.guarantee("G6")
@pytest.mark.parity("P1.3")
@pytest.mark.parametrize("delay", [3, 60])
async def test_a_crash_neither_forgets_nor_repeats_nor_prolongs_the_backoff(delay: int) -> None:
    app, body = App(), Flaky(2)
    flow = flow_of(app, body, retries=RetryPolicy(retries=2, delay=delay, backoff="constant", max_delay=600, jitter=0))

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(delay - 1)
        await t.crash()
        await t.advance(0.999)
        assert body.attempts == [1]
        await t.advance(0.001)
        assert body.attempts == [1, 2]
        await t.crash()
        await t.advance(delay)
        assert await execution.result() == 3
        step = await the_step(execution)
    assert body.attempts == [1, 2, 3]
    assert [attempt.attempt for attempt in step.attempts] == [1, 2]


@pytest.mark.guarantee("G6")
async def test_a_backoff_that_ended_while_nobody_ran_is_over_at_the_next_start(tmp_path: Path) -> None:
    database, body = f"sqlite:///{tmp_path}/x.db", Flaky(1)
    first, second = App(), App()
    flow_of(first, body)
    flow = flow_of(second, body)

    async with sandbox(first, database=database) as t:
        await first.workflows["flow"].trigger(None, id="e")
        await t.settle()
    later = now(t) + timedelta(hours=1)
    async with sandbox(second, database=database, start=later):
        assert await flow.get_execution("e").result() == 2
    assert body.attempts == [1, 2]


@pytest.mark.guarantee("G6")
async def test_used_up_attempts_stay_used_up_after_a_crash() -> None:
    app, body = App(), Flaky()

    @app.workflow
    async def flow(step: Step) -> str:
        try:
            await step.run("flaky", body, retries=1)
        except ConnectionError:
            await step.sleep("pause", "1 hour")
        return "done"

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("1 minute")
        await t.crash()
        await t.advance("1 hour")
        assert await execution.result() == "done"
    assert body.attempts == [1, 2]


@pytest.mark.guarantee("G6")
async def test_an_attempt_cut_by_a_crash_begins_anew_with_the_same_number() -> None:
    app, blocked = App(), asyncio.Event()
    attempts: list[int] = []

    async def body() -> str:
        attempts.append(current_step().attempt)
        if len(attempts) == 1:
            raise ConnectionError
        if len(attempts) == 2:
            blocked.set()
            await asyncio.Event().wait()
        raise ValueError("last")

    flow = flow_of(app, body, retries=RetryPolicy(retries=2, delay=0))
    async with sandbox(app) as t:
        execution = await flow.trigger()
        await blocked.wait()
        await t.crash()
        with pytest.raises(ExecutionFailedError, match="last"):
            await execution.result()
        recorded = (await the_step(execution)).attempts
    assert attempts == [1, 2, 2, 3]
    assert [attempt.attempt for attempt in recorded] == [1, 2, 3]


@pytest.mark.guarantee("G6")
async def test_an_attempt_that_was_shown_as_running_keeps_its_number_over_a_crash() -> None:
    app, leaf, blocked = App(), Flaky(0), asyncio.Event()
    attempts: list[int] = []

    async def parent() -> int:
        here = current_step()
        attempts.append(here.attempt)
        value = await here.run(f"leaf-{here.attempt}", leaf)
        if here.attempt == 1:
            raise ConnectionError
        if len(attempts) == 2:
            blocked.set()
            await asyncio.Event().wait()
        return value

    flow = flow_of(app, parent, retries=RetryPolicy(retries=1, delay=0))
    async with sandbox(app) as t:
        execution = await flow.trigger()
        await blocked.wait()
        assert (await the_step(execution)).status == "running"
        await t.crash()
        await execution.result()
        step = await the_step(execution)
    assert attempts == [1, 2, 2]
    assert (step.attempt, [attempt.attempt for attempt in step.attempts]) == (2, [1])
    assert len(leaf.attempts) == 2


# ------------------------------------------------------------------------------------------------- no further attempt


@pytest.mark.parametrize(
    "make", [lambda: NonRetryableError("stop"), lambda: NeverError("stop"), lambda: SerializationError("stop")]
)
async def test_some_errors_are_never_tried_again(make: Callable[[], BaseException]) -> None:
    app, body = App(), Flaky(make=make)
    flow = flow_of(app, body, retries=5)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        with pytest.raises(ExecutionFailedError, match="stop") as caught:
            await execution.result()
    assert type(caught.value.__cause__) is type(make())
    assert body.attempts == [1]


async def test_retry_if_decides_from_the_error() -> None:
    app, transient, permanent = App(), Flaky(2), Flaky(make=lambda: PermissionError("denied"))
    asked: list[str] = []

    def is_transient(error: Exception) -> bool:
        asked.append(type(error).__name__)
        return isinstance(error, ConnectionError) and not isinstance(error, PermissionError)

    @app.workflow
    async def flow(step: Step) -> int:
        value = await step.run("transient", transient, retry_if=is_transient)
        try:
            await step.run("permanent", permanent, retries=RetryPolicy(retry_if=is_transient))
        except PermissionError:
            return value
        return 0

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("1 minute")
        assert await execution.result() == 3
    assert asked == ["ConnectionError", "ConnectionError", "PermissionError"]
    assert permanent.attempts == [1]


@pytest.mark.parametrize("wrapped", ["bare", "from", "group"])
async def test_a_failure_of_a_nested_step_is_not_tried_again_by_its_parent(wrapped: str) -> None:
    app, leaf = App(), Flaky()
    parents: list[int] = []

    async def parent() -> None:
        parents.append(current_step().attempt)
        try:
            await current_step().run("leaf", leaf, retries=1)
        except ConnectionError as error:
            if wrapped == "bare":
                raise
            if wrapped == "from":
                raise RuntimeError("wrapped") from error
            raise ExceptionGroup("group", [ValueError("other"), error]) from None

    flow = flow_of(app, parent, retries=3)
    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(LONG_ENOUGH)
        assert await execution.status() == "failed"
    assert (parents, leaf.attempts) == ([1], [1, 2])


async def test_a_nested_failure_met_again_after_a_crash_is_not_tried_again_by_its_parent() -> None:
    app, leaf, blocked = App(), Flaky(), asyncio.Event()
    parents: list[int] = []

    async def parent() -> None:
        parents.append(current_step().attempt)
        try:
            await current_step().run("leaf", leaf, retries=0)
        except ConnectionError:
            if len(parents) == 1:
                blocked.set()
                await asyncio.Event().wait()
            raise

    flow = flow_of(app, parent, retries=3)
    async with sandbox(app) as t:
        execution = await flow.trigger()
        await blocked.wait()
        await t.crash()
        await t.advance(LONG_ENOUGH)
        assert await execution.status() == "failed"
    assert (parents, leaf.attempts) == ([1, 1], [1])


async def test_a_parent_that_handles_the_nested_failure_and_fails_by_itself_is_tried_again() -> None:
    app, leaf = App(), Flaky()
    parents: list[int] = []

    async def parent() -> str:
        parents.append(current_step().attempt)
        try:
            await current_step().run("leaf", leaf, retries=0)
        except ConnectionError:
            if len(parents) < 3:
                raise ValueError("my own") from None
        return "done"

    flow = flow_of(app, parent, retries=3)
    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(LONG_ENOUGH)
        assert await execution.result() == "done"
    assert (parents, leaf.attempts) == ([1, 2, 3], [1])


@pytest.mark.guarantee("G3")
async def test_a_parents_retry_reuses_finished_children() -> None:
    app, leaf = App(), Flaky(0)
    parents: list[int] = []

    async def parent() -> int:
        parents.append(current_step().attempt)
        value = await current_step().run("leaf", leaf)
        if len(parents) < 3:
            raise ConnectionError
        return value

    flow = flow_of(app, parent)
    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("1 minute")
        assert await execution.result() == 1
    assert (parents, leaf.attempts) == ([1, 2, 3], [1])


async def test_a_child_cancelled_by_a_failing_attempt_runs_again_in_the_next_one() -> None:
    app, started = App(), asyncio.Event()
    runs: list[str] = []

    async def leaf() -> str:
        runs.append("leaf")
        if len(runs) == 1:
            started.set()
            await asyncio.Event().wait()
        return "leaf"

    async def parent() -> str:
        here = current_step()

        async def other() -> None:
            await started.wait()
            if here.attempt == 1:
                raise ConnectionError

        async with asyncio.TaskGroup() as group:
            found = group.create_task(here.run("leaf", leaf))
            group.create_task(other())
        return found.result()

    flow = flow_of(app, parent, retries=RetryPolicy(delay=0))
    async with sandbox(app):
        assert await (await flow.trigger()).result(timeout=5) == "leaf"
    assert runs == ["leaf", "leaf"]


@pytest.mark.guarantee("G2")
async def test_a_child_that_was_cancelled_with_an_attempt_is_durable_when_it_completes_in_the_next() -> None:
    app, child, blocked = App(), Flaky(0), asyncio.Event()
    parents: list[int] = []

    async def parent() -> int:
        here = current_step()
        parents.append(here.attempt)
        if len(parents) == 1:
            call = asyncio.create_task(here.run("leaf", asyncio.Event().wait))
            await asyncio.sleep(0.01)
            call.cancel()
            await asyncio.wait([call])
            raise ConnectionError
        value = await here.run("leaf", child)
        if len(parents) == 2:
            blocked.set()
            await asyncio.Event().wait()
        return value

    flow = flow_of(app, parent, retries=RetryPolicy(delay=0))
    async with sandbox(app) as t:
        execution = await flow.trigger()
        await blocked.wait()
        await t.crash()
        assert await execution.result(timeout=5) == 1
        assert (await the_step(execution, "flaky/leaf")).status == "completed"
    assert (parents, child.attempts) == ([1, 2, 2], [1])


async def test_an_error_outside_any_step_is_not_tried_again() -> None:
    app = App(retries=5)
    entries: list[str] = []

    @app.workflow(retries=5)
    async def flow(step: Step) -> None:
        entries.append("entered")
        raise ConnectionError("outside")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(LONG_ENOUGH)
        assert await execution.status() == "failed"
    assert entries == ["entered"]


# ------------------------------------------------------------------------------------------------- the record


@pytest.mark.parity("P1.14")
async def test_failed_attempts_are_recorded_with_error_times_and_worker() -> None:
    app, body = App(), Flaky(2)
    flow = flow_of(app, body, retries=NO_JITTER)

    async with sandbox(app) as t:
        began = now(t)
        execution = await flow.trigger()
        await t.advance("1 minute")
        await execution.result()
        step = await the_step(execution)
    assert (step.status, step.attempt, step.error, step.wake_at) == ("completed", 3, None, None)
    assert [attempt.attempt for attempt in step.attempts] == [1, 2]
    assert [attempt.started_at - began for attempt in step.attempts] == [timedelta(0), timedelta(seconds=1)]
    assert (step.started_at - began, step.finished_at) == (timedelta(0), began + timedelta(seconds=3))
    for attempt in step.attempts:
        assert attempt.error.type.endswith("ConnectionError")
        assert attempt.error.message == "down"
        assert "raise self._make()" in attempt.error.traceback
        assert attempt.finished_at >= attempt.started_at
        assert attempt.worker


async def test_the_last_failed_attempt_is_recorded_too() -> None:
    app, body = App(), Flaky()
    flow = flow_of(app, body, retries=1)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("1 minute")
        step = await the_step(execution)
    assert (step.status, step.attempt) == ("failed", 2)
    assert [attempt.attempt for attempt in step.attempts] == [1, 2]


def test_plain_workflows_retry_alike() -> None:
    app = App(database="sqlite://")
    attempts: list[int] = []

    def body() -> int:
        attempts.append(current_step().attempt)
        if len(attempts) < 3:
            raise ConnectionError
        return len(attempts)

    @app.workflow
    def flow(step: SyncStep) -> int:
        return step.run("flaky", body, retry_delay=0)

    assert app.execute(flow) == 3
    assert attempts == [1, 2, 3]


@pytest.mark.parity("P3.3")
async def test_steps_are_retried_independently() -> None:
    app, first, second = App(), Flaky(1), Flaky(2)

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return [await step.run("first", first), await step.run("second", second)]

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("1 minute")
        assert await execution.result() == [2, 3]
    assert (first.attempts, second.attempts) == ([1, 2], [1, 2, 3])


async def test_parallel_steps_back_off_side_by_side() -> None:
    app, bodies = App(), [Flaky(1) for _ in range(5)]

    @app.workflow(retries=NO_JITTER)
    async def flow(step: Step) -> list[int]:
        return await asyncio.gather(*(step.run(f"s{n}", body) for n, body in enumerate(bodies)))

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("1 second")
        assert await execution.result() == [2] * 5
