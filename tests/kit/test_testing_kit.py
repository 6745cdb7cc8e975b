"""The test kit: an app in memory, a clock that the test moves, bodies that it replaces."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from stepwell import App, ExecutionFailedError, Step, SyncStep, Workflow
from stepwell.errors import InvalidInputError, StepTimeoutError
from stepwell.testing import Tester, sandbox
from stepwell.testing.plugin import workflow_tester as workflow_tester  # installed or not, the fixture is there
from tests.api.conftest import START, Order

pytestmark = pytest.mark.anyio


async def charge(order: Order) -> str:
    raise AssertionError("the real payment service was called")


def shop() -> tuple[App, Workflow[Order, str]]:
    app = App("shop")

    @app.workflow(retries=1)
    async def order_processing(step: Step, order: Order) -> str:
        payment = await step.run("charge", charge, order)
        await step.sleep("fraud-check", "1 hour")
        return payment

    return app, order_processing


# ------------------------------------------------------------------------------------------------- the database


async def test_nothing_of_the_configured_database_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = App(database="sqlite:///own.db")

    async with sandbox(app) as tester:
        assert app.database == "sqlite://"
        assert tester.app is app

    assert app.database == f"sqlite:///{tmp_path}/own.db"
    assert list(tmp_path.iterdir()) == []


async def test_each_test_begins_with_an_empty_database() -> None:
    app, order_processing = shop()

    for _ in range(2):
        async with sandbox(app) as tester:
            tester.stub("charge", returns="p-1")
            await order_processing.trigger(Order("a", 1), id="A-1")
            assert len((await app.list_executions()).executions) == 1


async def test_a_test_may_use_a_database_in_a_file(tmp_path: Path) -> None:
    app, order_processing = shop()

    for _ in range(2):
        async with sandbox(app, database=f"sqlite:///{tmp_path}/test.db") as tester:
            tester.stub("charge", returns="p-1")
            await order_processing.trigger(Order("a", 1), id="A-1", if_exists="return")
            await tester.advance("2 hours")
            assert await order_processing.get_execution("A-1").result() == "p-1"


async def test_an_error_in_the_test_passes_and_the_app_is_itself_again() -> None:
    app, _ = shop()
    before = app.database

    with pytest.raises(KeyError):
        async with sandbox(app):
            raise KeyError("mine")

    assert app.database == before


# ------------------------------------------------------------------------------------------------- stubs


async def test_a_stub_returns_a_value() -> None:
    app, order_processing = shop()

    async with sandbox(app) as tester:
        tester.stub("charge", returns="payment-test")
        execution = await order_processing.trigger(Order("a", 1))
        await tester.advance("1 hour")

        assert await execution.result() == "payment-test"


async def test_none_is_a_value_that_a_stub_may_return() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        return await step.run("work", lambda: 1 / 0)  # pyright: ignore[reportReturnType]

    async with sandbox(app) as tester:
        tester.stub("work", returns=None)
        assert await (await flow.trigger()).result() is None


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_stub_is_called_with_the_body_s_arguments(kind: str) -> None:
    app, order_processing = shop()
    seen: list[Order] = []

    async def fake(order: Order) -> str:
        seen.append(order)
        return "payment-fake"

    def plain_fake(order: Order) -> str:
        seen.append(order)
        return "payment-fake"

    async with sandbox(app) as tester:
        tester.stub("charge", fake if kind == "async" else plain_fake)
        execution = await order_processing.trigger(Order("a", 1))
        await tester.advance("1 hour")

        assert await execution.result() == "payment-fake"
        assert seen == [Order("a", 1)]


async def test_a_stub_raises_each_time() -> None:
    app, order_processing = shop()

    async with sandbox(app) as tester:
        tester.stub("charge", raises=StepTimeoutError("charge", 30))
        execution = await order_processing.trigger(Order("a", 1))
        await tester.advance("1 minute")

        with pytest.raises(ExecutionFailedError, match="StepTimeoutError"):
            await execution.result()
        [step] = await execution.steps()
        assert (step.status, step.attempt) == ("failed", 2)


async def test_a_stub_of_a_plain_workflow() -> None:
    app = App()

    @app.workflow
    def flow(step: SyncStep) -> str:
        return step.run("work", lambda: "real")

    async with sandbox(app) as tester:
        tester.stub("work", returns="stubbed")
        assert await (await flow.trigger()).result() == "stubbed"


async def test_stubs_may_change_while_an_execution_waits() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> list[str]:
        first = await step.run("a", lambda: "real")
        await step.sleep("nap", "1 hour")
        return [first, await step.run("b", lambda: "real")]

    async with sandbox(app) as tester:
        tester.stub("a", returns="first")
        execution = await flow.trigger()
        await tester.settle()
        tester.stub("a", returns="too late")
        tester.stub("b", returns="second")
        await tester.advance("1 hour")

        assert await execution.result() == ["first", "second"]


async def test_stubs_end_with_the_test() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("work", lambda: "real")

    async with sandbox(app) as tester:
        tester.stub("work", returns="stubbed")
    async with sandbox(app):
        assert await (await flow.trigger()).result() == "real"


@pytest.mark.parametrize("given", [{}, {"returns": 1, "raises": ValueError()}, {"fn": print, "returns": None}])
async def test_a_stub_is_exactly_one_thing(given: dict[str, Any]) -> None:
    app, _ = shop()

    async with sandbox(app) as tester:
        with pytest.raises(ValueError, match="exactly one of fn, returns and raises"):
            tester.stub("charge", **given)


# ------------------------------------------------------------------------------------------------- the clock


async def test_the_clock_stands_still() -> None:
    app, order_processing = shop()

    async with sandbox(app) as tester:
        tester.stub("charge", returns="p-1")
        execution = await order_processing.trigger(Order("a", 1))
        await tester.settle()
        await asyncio.sleep(0.05)

        info = await execution.info()
        assert (info.status, info.created_at, info.wake_at) == ("sleeping", START, START + timedelta(hours=1))


async def test_the_clock_begins_where_the_test_says() -> None:
    app = App()
    start = datetime(2024, 2, 29, 12, tzinfo=UTC)

    @app.workflow
    async def flow(step: Step) -> datetime:
        return await step.now("now")

    async with sandbox(app, start=start):
        assert await (await flow.trigger()).result() == start


async def test_advance_stops_at_each_due_time_in_order() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, seconds: int) -> list[datetime]:
        times: list[datetime] = []
        for number in range(3):
            await step.sleep(f"nap-{number}", seconds)
            times.append(await step.now(f"now-{number}"))
        return times

    async with sandbox(app) as tester:
        executions = {seconds: await flow.trigger(seconds) for seconds in (60, 3, 600, 7)}
        await tester.advance("1 hour")

        for seconds, execution in executions.items():
            expected = [START + timedelta(seconds=seconds * number) for number in (1, 2, 3)]
            assert await execution.result() == expected


async def test_what_is_due_happens_in_order_of_time() -> None:
    app, order = App(), list[int]()

    @app.workflow
    async def flow(step: Step, seconds: int) -> None:
        await step.sleep("nap", seconds)
        order.append(seconds)

    async with sandbox(app) as tester:
        for seconds in (50, 10, 4, 90, 20):
            await flow.trigger(seconds)
        await tester.advance("1 minute")

        assert order == [4, 10, 20, 50]


async def test_advance_to_a_moment() -> None:
    app, order_processing = shop()

    async with sandbox(app) as tester:
        tester.stub("charge", returns="p-1")
        execution = await order_processing.trigger(Order("a", 1))
        await tester.advance_to(START + timedelta(minutes=59))
        assert await execution.status() == "sleeping"
        await tester.advance_to(START + timedelta(minutes=60))

        assert await execution.status() == "completed"


async def test_retries_wait_for_the_clock() -> None:
    app, attempts = App(), list[datetime]()

    @app.workflow
    async def flow(step: Step) -> None:
        async def work() -> None:
            attempts.append(START)
            raise ValueError("again")

        await step.run("work", work, retries=2)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        assert len(attempts) == 1
        await tester.advance("2 seconds")
        assert len(attempts) == 2
        await tester.advance("3 seconds")
        assert len(attempts) == 3
        assert await execution.status() == "failed"


@pytest.mark.parametrize("duration", ["soon", -1, None, True])
async def test_bad_durations_are_refused(duration: Any) -> None:
    app, _ = shop()

    async with sandbox(app) as tester:
        with pytest.raises(InvalidInputError, match=r"^duration must"):
            await tester.advance(duration)


async def test_settle_waits_until_bodies_have_ended() -> None:
    app, ended = App(), list[str]()

    async def work(text: str) -> None:
        await asyncio.sleep(0.02)
        ended.append(text)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("first", work, "first")
        await step.run("second", work, "second")
        await step.sleep("nap", "1 day")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()

        assert ended == ["first", "second"]
        assert await execution.status() == "sleeping"


async def test_settle_waits_for_what_is_queued() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, number: int) -> int:
        return await step.run("work", lambda: number)

    async with sandbox(app, concurrency=2) as tester:
        executions = await flow.trigger_many(range(30))
        await tester.settle()

        assert {await execution.status() for execution in executions} == {"completed"}


async def test_settle_with_nothing_to_do_returns() -> None:
    app, _ = shop()

    async with sandbox(app) as tester:
        await tester.settle()
        await tester.advance("520 weeks")


# ------------------------------------------------------------------------------------------------- crashing


@pytest.mark.guarantee("G3")
async def test_a_crash_continues_from_the_record() -> None:
    app, runs = App(), list[str]()

    @app.workflow
    async def flow(step: Step) -> str:
        await step.run("first", runs.append, "first")
        await step.sleep("nap", "1 hour")
        await step.run("second", runs.append, "second")
        return "done"

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        await tester.crash()
        await tester.advance("1 hour")

        assert await execution.result() == "done"
        assert runs == ["first", "second"]
        assert (await execution.info()).run_number == 1


async def test_a_body_that_was_cut_by_a_crash_runs_again_as_the_same_attempt() -> None:
    app, started = App(), asyncio.Event()
    attempts: list[int] = []

    @app.workflow
    async def flow(step: Step) -> str:
        async def work() -> str:
            attempts.append(step.attempt)
            started.set()
            if len(attempts) == 1:
                await asyncio.Event().wait()
            return "done"

        return await step.run("work", work)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await started.wait()
        await tester.crash()

        assert await execution.result() == "done"
        assert attempts == [1, 1]


async def test_several_crashes_in_a_row() -> None:
    app, runs = App(), list[str]()

    @app.workflow
    async def flow(step: Step) -> int:
        for number in range(5):
            await step.run(f"work-{number}", runs.append, str(number))
            await step.sleep(f"nap-{number}", 3)
        return len(runs)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        for _ in range(5):
            await tester.settle()
            await tester.crash()
            await tester.advance(3)

        assert await execution.result() == 5
        assert runs == ["0", "1", "2", "3", "4"]


async def test_a_crash_of_an_idle_app_does_nothing() -> None:
    app, order_processing = shop()

    async with sandbox(app) as tester:
        await tester.crash()
        tester.stub("charge", returns="p-1")
        execution = await order_processing.trigger(Order("a", 1))
        await tester.advance("1 hour")

        assert await execution.result() == "p-1"


# ------------------------------------------------------------------------------------------------- pytest


async def test_the_fixture_opens_a_tester(
    workflow_tester: Callable[[App], AbstractAsyncContextManager[Tester]],
) -> None:
    app, order_processing = shop()

    async with workflow_tester(app) as tester:
        tester.stub("charge", returns="p-1")
        execution = await order_processing.trigger(Order("a", 1))
        await tester.advance("1 hour")

        assert await execution.result() == "p-1"


def test_the_plugin_is_announced_to_pytest() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module = project["project"]["entry-points"]["pytest11"]["stepwell"]

    assert import_module(module).workflow_tester
