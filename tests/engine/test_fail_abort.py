"""`step.fail` and `step.abort` end the execution now, and user code cannot swallow them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from stepwell import App, Execution, Step, SyncStep, current_step
from stepwell.errors import (
    ExecutionAbortedError,
    ExecutionFailedError,
    InvalidInputError,
    NonRetryableError,
    NoStepContextError,
    WorkflowCodeError,
)
from stepwell.testing import Tester, sandbox

from .conftest import Ledger, statuses

End = Callable[[Step | SyncStep], None]


def fail(step: Step | SyncStep) -> None:
    step.fail("no stock")


def abort(step: Step | SyncStep) -> None:
    step.abort("no stock")


both = pytest.mark.parametrize("end", [fail, abort])


async def assert_ended(execution: Execution[Any], end: End) -> None:
    if end is fail:
        with pytest.raises(ExecutionFailedError, match="no stock") as failed:
            await execution.result()
        assert isinstance(failed.value.__cause__, NonRetryableError)
    else:
        with pytest.raises(ExecutionAbortedError) as aborted:
            await execution.result()
        assert aborted.value.reason == "no stock"
    info = await execution.info()
    assert (info.status, info.is_terminal) == ("failed" if end is fail else "aborted", True)
    assert info.reason == (None if end is fail else "no stock")
    if end is fail:
        assert info.error is not None
        assert (info.error.type, info.error.message) == ("stepwell.errors.NonRetryableError", "no stock")
        assert __file__ in info.error.traceback
    else:
        assert info.error is None


@both
@pytest.mark.parity("P5.8")
async def test_ends_the_execution_at_once(end: End, ledger: Ledger) -> None:
    app = App()

    @app.workflow(retries=3)
    async def flow(step: Step) -> str:
        await step.run("before", ledger.note, "before")
        end(step)
        await step.run("after", ledger.note, "after")
        return "done"

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await assert_ended(execution, end)
        await tester.advance("1 day")
        assert await statuses(execution) == {"before": "completed"}
    assert ledger == ["before"]


async def swallow(end: Callable[[], object]) -> None:
    try:
        end()
    except BaseException:
        return


async def swallow_in_gather(end: Callable[[], object]) -> None:
    async def branch() -> None:
        end()

    await asyncio.gather(branch(), asyncio.sleep(0), return_exceptions=True)


async def swallow_in_a_group(end: Callable[[], object]) -> None:
    async def branch() -> None:
        try:
            end()
        finally:
            return  # noqa: B012 - that is the point

    async with asyncio.TaskGroup() as group:
        group.create_task(branch())


async def swallow_in_an_orphan(end: Callable[[], object]) -> None:
    async def branch() -> None:
        end()

    task = asyncio.create_task(branch())
    await asyncio.wait([task])


async def swallow_and_repeat(end: Callable[[], object]) -> None:
    for _ in range(1_000):
        try:
            end()
        except BaseException:  # noqa: S112 - that is the point
            continue


WAYS = [swallow, swallow_in_gather, swallow_in_a_group, swallow_in_an_orphan, swallow_and_repeat]


@both
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parity("P5.8")
async def test_workflow_code_cannot_swallow_it(
    end: End, way: Callable[[Callable[[], object]], Awaitable[None]], ledger: Ledger
) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        await way(lambda: end(step))
        await step.run("after", ledger.note, "after")
        return "done"

    async with sandbox(app):
        execution = await flow.trigger()
        await assert_ended(execution, end)
        assert await execution.steps() == []
    assert ledger == []


@both
@pytest.mark.parametrize("way", WAYS)
async def test_a_body_cannot_swallow_it(
    end: End, way: Callable[[Callable[[], object]], Awaitable[None]], ledger: Ledger
) -> None:
    app = App()

    async def inner() -> str:
        ledger.append("inner")
        await way(lambda: end(current_step()))
        return "swallowed"

    async def outer() -> str:
        return await current_step().run("inner", inner, retries=5)

    @app.workflow
    async def flow(step: Step) -> str:
        try:
            return await step.run("outer", outer, retries=5)
        except BaseException:
            await step.run("after", ledger.note, "after")
            return "done"

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await assert_ended(execution, end)
        await tester.advance("1 day")
        found = await statuses(execution)
        assert set(found.values()) <= {"cancelled"}
        assert all(not step.attempts for step in await execution.steps())
    assert ledger == ["inner"]


@both
async def test_a_branch_ends_the_others(end: End, ledger: Ledger) -> None:
    app = App()
    begun = asyncio.Event()

    async def endless() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ledger.append("cut")

    @app.workflow
    async def flow(step: Step) -> None:
        async def give_up() -> None:
            await begun.wait()
            end(step)

        await asyncio.gather(step.run("endless", endless), step.sleep("nap", "1 hour"), give_up())

    async with sandbox(app):
        execution = await flow.trigger()
        await assert_ended(execution, end)
        assert set((await statuses(execution)).values()) <= {"cancelled"}
    assert ledger == ["cut"]


@both
async def test_the_thread_of_a_body_ends_it(end: End, ledger: Ledger) -> None:
    app = App()

    def body() -> str:
        for _ in range(3):
            try:
                end(current_step())
            except BaseException as error:
                ledger.append(type(error).__name__)
        return "swallowed"

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("body", body, retries=5)

    async with sandbox(app):
        execution = await flow.trigger()
        await assert_ended(execution, end)
        assert set((await statuses(execution)).values()) <= {"cancelled"}
    assert ledger[0] == "Unwound"


@both
@pytest.mark.parametrize("place", ["function", "body", "within", "race"])
async def test_a_plain_workflow_ends_itself(end: End, place: str, ledger: Ledger) -> None:
    app = App()

    def give_up() -> str:
        try:
            end(current_step(SyncStep))
        except BaseException:
            ledger.append("swallowed")
        return "done"

    @app.workflow
    def flow(step: SyncStep) -> str:
        match place:
            case "function":
                give_up()
            case "body":
                step.run("body", give_up, retries=3)
            case "within":
                step.within("in-time", "1 hour", give_up)
            case _:
                step.race("first", us=give_up)
        step.run("after", ledger.note_in_thread, "after")
        return "done"

    async with sandbox(app):
        execution = await flow.trigger()
        await assert_ended(execution, end)
    assert ledger == ["swallowed"]


@both
async def test_a_plain_workflow_that_repeats_it_for_ever_is_ended(end: End, ledger: Ledger) -> None:
    app = App()
    times = [0]

    @app.workflow
    def flow(step: SyncStep) -> None:
        while True:
            try:
                end(step)
            except BaseException:
                times[0] += 1

    async with sandbox(app):
        await assert_ended(await flow.trigger(), end)
    assert times[0] < 200


@both
async def test_a_thread_of_the_users_own_ends_it_with_the_carried_context(end: End) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        with ThreadPoolExecutor(1) as pool:
            await asyncio.wrap_future(pool.submit(step.carry(lambda: end(step))))

    async with sandbox(app):
        await assert_ended(await flow.trigger(), end)


async def test_abort_runs_nothing_else(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("charge", ledger.note, "charge", undo=ledger.note)
        step.abort()

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        ledger.append("on_error")

    async with sandbox(app):
        execution = await flow.trigger()
        with pytest.raises(ExecutionAbortedError):
            await execution.result()
        assert (await execution.info()).reason is None
        assert await statuses(execution) == {"charge": "completed"}
    assert ledger == ["charge"]


async def test_fail_runs_on_error_with_its_error(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        step.fail("no stock")

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        ledger.append(f"{type(error).__name__}: {error}")

    async with sandbox(app):
        await assert_ended(await flow.trigger(), fail)
    assert ledger == ["NonRetryableError: no stock"]


@both
async def test_inside_on_error_it_ends_only_that(end: End, ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        raise ValueError("first")

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        await step.run("one", ledger.note, "one")
        end(step)
        await step.run("two", ledger.note, "two")

    async with sandbox(app):
        execution = await flow.trigger()
        with pytest.raises(ExecutionFailedError, match="first"):
            await execution.result()
        assert (await execution.info()).status == "failed"
    assert ledger == ["one"]


@both
async def test_it_is_met_again_after_a_crash(end: End, ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("before", ledger.note, "before")
        await step.sleep("nap", "1 hour")
        end(step)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        await tester.crash()
        await tester.advance("2 hours")
        await assert_ended(execution, end)
    assert ledger == ["before"]


@both
async def test_in_the_last_turn_before_parking(end: End) -> None:
    """A sleeping branch would park the execution; the other ends it."""
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        async def give_up() -> None:
            await step.sleep("short", "6 seconds")
            end(step)

        await asyncio.gather(step.sleep("long", "1 hour"), give_up())

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.advance("10 seconds")
        await assert_ended(execution, end)
        assert await statuses(execution) == {"long": "cancelled", "short": "completed"}


@pytest.mark.parametrize(
    "text", [5, None, "a" * 2_001, "\0", "\ud800"], ids=["number", "none", "long", "zero", "surrogate"]
)
async def test_a_bad_message_is_refused(text: Any) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        with pytest.raises(InvalidInputError, match=r"step\.fail"):
            step.fail(cast("str", text))
        if text is not None:
            with pytest.raises(InvalidInputError, match=r"step\.abort"):
                step.abort(cast("str", text))
        return "goes on"

    async with sandbox(app):
        assert await (await flow.trigger()).result() == "goes on"


@both
async def test_of_another_execution_it_is_refused(end: End) -> None:
    app = App()
    steps: list[Step] = []
    ready = asyncio.Event()

    @app.workflow
    async def first(step: Step) -> str:
        steps.append(step)
        await ready.wait()
        return "done"

    @app.workflow
    async def second(step: Step) -> str:
        try:
            end(steps[0])
        except WorkflowCodeError as error:
            return str(error)
        finally:
            ready.set()
        return "not refused"

    async with sandbox(app):
        one = await first.trigger()
        assert "was called inside execution" in await (await second.trigger()).result()
        assert await one.result() == "done"
        with pytest.raises(NoStepContextError):
            end(steps[0])


@both
async def test_after_the_execution_has_ended_it_is_refused(end: End) -> None:
    app = App()
    later: list[asyncio.Task[str]] = []
    go = asyncio.Event()

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("body", body)

    async def body() -> str:
        async def orphan() -> str:
            await go.wait()
            try:
                end(current_step())
            except WorkflowCodeError:
                return "refused"
            return "not refused"

        later.append(asyncio.create_task(orphan()))
        return "done"

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == "done"
        go.set()
        assert await later[0] == "refused"
        assert await execution.status() == "completed"


async def test_the_first_decision_stands() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        try:
            step.fail("no stock")
        finally:
            step.abort("second")

    async with sandbox(app):
        await assert_ended(await flow.trigger(), fail)


async def test_cancelling_wins_over_the_clean_up() -> None:
    app = App()
    cleaning = asyncio.Event()

    @app.workflow
    async def flow(step: Step) -> None:
        step.fail("no stock")

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        cleaning.set()
        await asyncio.Event().wait()

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await cleaning.wait()
        assert (await execution.info()).ending == "failed"
        await execution.cancel("enough")
        assert await execution.status() == "cancelled"
        await _left(tester)


async def _left(tester: Tester) -> None:
    async with asyncio.timeout(5):
        while tester.worker.residents:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
