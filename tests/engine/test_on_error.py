"""`on_error` runs before a failed execution is marked `failed`, may run steps, and changes nothing about the failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell import App, Execution, Step, StepInfo, SyncStep
from stepwell.errors import ExecutionFailedError, InvalidInputError, SerializationError, StepFailedError
from stepwell.testing import sandbox

HOUR = "1 hour"


class CardError(Exception):
    def __init__(self, *, code: str) -> None:
        super().__init__(f"card refused: {code}")
        self.code = code


class Stop(BaseException):
    """Not an Exception."""


async def refuse() -> None:
    raise CardError(code="declined")


async def the_step(execution: Execution[Any], path: str) -> StepInfo:
    return next(step for step in await execution.steps() if step.path == path)


async def assert_failed(execution: Execution[Any], message: str) -> BaseException | None:
    with pytest.raises(ExecutionFailedError, match=message) as caught:
        await execution.result()
    assert await execution.status() == "failed"
    return caught.value.__cause__


@pytest.mark.parity("P1.12")
async def test_it_gets_the_error_and_runs_before_the_execution_is_failed() -> None:
    app = App()
    seen: list[Any] = []

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("charge", refuse, retries=0)

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        seen.append((type(error), str(error), await flow.get_execution(step.execution_id).status()))

    async with sandbox(app):
        cause = await assert_failed(await flow.trigger(), "declined")
    assert seen == [(CardError, "card refused: declined", "running")]
    assert isinstance(cause, CardError)


async def test_with_input_and_error() -> None:
    app = App()
    seen: list[Any] = []

    @app.workflow
    async def flow(step: Step, order: dict[str, int]) -> None:
        order["id"] = 0
        raise ValueError("no")

    @flow.on_error
    async def clean(step: Step, order: dict[str, int], error: BaseException) -> None:
        seen.append((order, str(error)))

    async with sandbox(app):
        await assert_failed(await flow.trigger({"id": 7}), "no")
    assert seen == [({"id": 7}, "no")]


async def test_with_env() -> None:
    app = App()
    seen: list[Any] = []

    @app.resource
    async def mail() -> AsyncGenerator[list[str]]:
        yield seen

    @app.workflow
    async def without_input(step: Step) -> None:
        raise ValueError("first")

    @without_input.on_error
    async def clean_first(step: Step, error: BaseException, *, env: Any) -> None:
        env.mail.append(str(error))

    @app.workflow
    async def with_input(step: Step, number: int, *, env: Any) -> None:
        raise ValueError("second")

    @with_input.on_error
    async def clean_second(step: Step, number: int, error: BaseException, *, env: Any) -> None:
        env.mail.append((number, str(error)))

    async with sandbox(app):
        await assert_failed(await without_input.trigger(), "first")
        await assert_failed(await with_input.trigger(7), "second")
    assert seen == ["first", (7, "second")]


async def test_a_plain_function_runs_in_a_thread_and_may_run_steps() -> None:
    app = App()
    seen: list[Any] = []

    @app.workflow
    def flow(step: SyncStep, number: int) -> None:
        raise ValueError("no")

    @flow.on_error
    def clean(step: SyncStep, number: int, error: BaseException) -> None:
        seen.append(threading.current_thread() is threading.main_thread())
        seen.append(step.run("release", lambda: number * 2))

    async with sandbox(app):
        execution = await flow.trigger(21)
        await assert_failed(execution, "no")
        assert (await the_step(execution, "#on_error/release")).output == 42
    assert seen == [False, 42]


async def test_its_steps_have_a_scope_of_their_own() -> None:
    app = App()
    runs: list[str] = []

    async def note(word: str) -> str:
        runs.append(word)
        return word

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("release", note, "in the workflow")
        raise ValueError("no")

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        await step.run("release", note, "in on_error")

    async with sandbox(app):
        execution = await flow.trigger()
        await assert_failed(execution, "no")
        found = {step.path: step.output for step in await execution.steps()}
    assert found == {"release": "in the workflow", "#on_error/release": "in on_error"}
    assert runs == ["in the workflow", "in on_error"]


@pytest.mark.parity("P1.12")
@pytest.mark.parametrize(
    "make",
    [lambda: RuntimeError("mine"), lambda: Stop("mine"), lambda: SystemExit(1), lambda: asyncio.CancelledError("mine")],
    ids=lambda make: type(make()).__name__,
)
async def test_what_it_raises_changes_nothing(
    make: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        raise ValueError("the workflow's own")

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        raise make()

    async with sandbox(app):
        execution = await flow.trigger()
        cause = await assert_failed(execution, "the workflow's own")
        info = await execution.info()
        [recorded] = await execution.steps()
    assert isinstance(cause, ValueError)
    assert (recorded.path, recorded.kind, recorded.status) == ("#on_error", "on_error", "failed")
    assert recorded.error is not None
    assert recorded.error.type.endswith(type(make()).__name__)
    assert info.error is not None
    assert info.error.message == "the workflow's own"
    assert any("on_error" in record.getMessage() for record in caplog.records)


async def test_a_step_of_it_that_fails_is_retried_recorded_and_changes_nothing() -> None:
    app = App()
    attempts: list[int] = []

    async def release() -> None:
        attempts.append(len(attempts))
        raise ConnectionError("release")

    @app.workflow
    async def flow(step: Step) -> None:
        raise ValueError("no")

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        await step.run("release", release, retries=2)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("1 minute")
        await assert_failed(execution, "no")
        assert (await the_step(execution, "#on_error/release")).status == "failed"
    assert len(attempts) == 3


async def test_what_it_returns_is_ignored() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        raise ValueError("no")

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> object:
        return object()

    async with sandbox(app):
        execution = await flow.trigger()
        await assert_failed(execution, "no")
        assert (await execution.info()).output is None


@pytest.mark.parametrize("status", ["completed", "cancelled"])
async def test_it_runs_for_failures_only(status: str) -> None:
    app, started = App(), asyncio.Event()
    cleaned: list[str] = []

    async def body() -> None:
        started.set()
        if status == "cancelled":
            await asyncio.Event().wait()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("body", body)

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        cleaned.append("ran")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await started.wait()
        if status == "cancelled":
            await execution.cancel()
        await t.settle()
        assert await execution.status() == status
    assert cleaned == []


async def test_a_cancel_ends_it() -> None:
    app, started = App(), asyncio.Event()
    after: list[str] = []

    async def body() -> None:
        started.set()
        await asyncio.Event().wait()

    async def note() -> None:
        after.append("ran")

    @app.workflow
    async def flow(step: Step) -> None:
        raise ValueError("no")

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        try:
            await step.run("slow", body)
        finally:
            await step.run("after", note)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await started.wait()
        await execution.cancel()
        await t.settle()
        assert await execution.status() == "cancelled"
    assert after == []


@pytest.mark.guarantee("G3")
async def test_a_crash_inside_it_continues_it_without_running_the_workflow_again() -> None:
    app, blocked = App(), asyncio.Event()
    events: list[str] = []

    async def first() -> None:
        events.append("first")

    async def second() -> None:
        events.append("second")
        if events.count("second") == 1:
            blocked.set()
            await asyncio.Event().wait()

    @app.workflow
    async def flow(step: Step, number: int) -> None:
        events.append("workflow")
        await step.run("charge", refuse, retries=0)

    @flow.on_error
    async def clean(step: Step, number: int, error: BaseException) -> None:
        events.append(f"{type(error).__name__} {error} {number}")
        await step.run("first", first)
        await step.run("second", second)

    async with sandbox(app) as t:
        execution = await flow.trigger(7)
        await blocked.wait()
        await t.crash()
        cause = await assert_failed(execution, "declined")
    handled = "CardError card refused: declined 7"
    assert events == ["workflow", handled, "first", "second", handled, "second"]
    assert isinstance(cause, CardError)


@pytest.mark.guarantee("G6")
async def test_it_may_sleep_for_long_and_over_a_new_process(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/x.db"
    events: list[str] = []

    def program() -> App:
        app = App()

        @app.workflow
        async def flow(step: Step) -> None:
            events.append("workflow")
            raise ValueError("no")

        async def note() -> None:
            events.append("noted")

        @flow.on_error
        async def clean(step: Step, error: BaseException) -> None:
            await step.run("before", note)
            await step.sleep("pause", HOUR)
            await step.run("after", note)

        return app

    first, second = program(), program()
    async with sandbox(first, database=database) as t:
        execution = await first.workflows["flow"].trigger(None, id="e")
        await t.settle()
        assert await execution.status() == "sleeping"
    async with sandbox(second, database=database) as t:
        await t.advance(HOUR)
        await assert_failed(second.get_execution("e"), "no")
    assert events == ["workflow", "noted", "noted"]


@pytest.mark.parametrize(
    ("make", "seen_as"),
    [
        (lambda: ValueError("x"), ValueError),
        (lambda: Stop("x"), StepFailedError),
        (lambda: SystemExit(1), StepFailedError),
    ],
    ids=["Exception", "BaseException", "SystemExit"],
)
async def test_it_runs_for_whatever_workflow_code_raises(make: Callable[[], BaseException], seen_as: type) -> None:
    app = App()
    seen: list[BaseException] = []

    @app.workflow
    async def flow(step: Step) -> None:
        raise make()

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        seen.append(error)

    async with sandbox(app):
        with pytest.raises(ExecutionFailedError):
            await (await flow.trigger()).result()
    assert [type(error) for error in seen] == [seen_as]


async def test_it_runs_when_the_output_cannot_be_stored() -> None:
    app = App()
    seen: list[BaseException] = []

    @app.workflow
    async def flow(step: Step) -> object:
        return object()

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        seen.append(error)

    async with sandbox(app):
        with pytest.raises(ExecutionFailedError):
            await (await flow.trigger()).result()
    assert [type(error) for error in seen] == [SerializationError]


async def test_branches_of_the_workflow_have_ended_before_it_begins() -> None:
    app, barrier = App(), asyncio.Barrier(9)
    events: list[str] = []

    async def slow() -> None:
        await barrier.wait()
        try:
            await asyncio.Event().wait()
        finally:
            events.append("slow ended")

    @app.workflow
    async def flow(step: Step) -> None:
        kept = [asyncio.create_task(step.run(f"slow-{number}", slow)) for number in range(8)]
        await barrier.wait()
        await asyncio.sleep(0)
        raise ValueError(f"no, {len(kept)} run")

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        events.append("on_error")

    async with sandbox(app):
        await assert_failed(await flow.trigger(), "no, 8 run")
    assert events == ["slow ended"] * 8 + ["on_error"]


@pytest.mark.guarantee("G10")
def test_a_second_on_error_is_refused() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async def clean(step: Step, error: BaseException) -> None: ...

    flow.on_error(clean)
    with pytest.raises(InvalidInputError, match="flow"):
        flow.on_error(clean)


def _no_error(step: Step) -> None: ...


def _too_many(step: Step, input: int, error: BaseException, more: int) -> None: ...


def _default(step: Step, error: BaseException | None = None) -> None: ...


def _other_keyword(step: Step, error: BaseException, *, other: int) -> None: ...


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize("handler", [_no_error, _too_many, _default, _other_keyword])
def test_a_handler_of_another_shape_is_refused_at_definition(handler: Callable[..., Any]) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    with pytest.raises(InvalidInputError, match=r"flow\.on_error"):
        flow.on_error(handler)


async def test_the_decorated_handler_stays_a_function() -> None:
    app = App()
    calls: list[BaseException] = []

    @app.workflow
    async def flow(step: Step) -> None: ...

    @flow.on_error
    async def clean(step: Any, error: BaseException) -> None:
        calls.append(error)

    await clean(None, ValueError("direct"))
    assert str(calls[0]) == "direct"
