"""What the systems that we follow can do: one test for each row of the comparison, with what we mend.

Sections 1 and 2 are Ploy Workflows, 3 and 4 Cloudflare Workflows, 5 Botpress ADK workflow steps. A row counts as done
when a test somewhere is marked with its number.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sqlite3
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    App,
    ExecutionCancelledError,
    ExecutionFailedError,
    NonRetryableError,
    Step,
    StepFailedError,
    SyncStep,
    current_step,
)
from stepwell.errors import InvalidInputError
from stepwell.testing import sandbox
from tests.api.conftest import START, Order

pytestmark = pytest.mark.anyio

ROWS = {1: 16, 2: 4, 3: 12, 4: 8, 5: 14}
"""How many rows each section has."""

WAITING = {
    *("P1.1", "P1.4", "P1.14", "P1.15"),
    *("P2.1", "P2.2"),
    *("P3.1", "P3.5", "P3.7", "P3.8", "P3.9", "P3.11", "P3.12"),
    *("P4.2", "P4.7"),
}
"""Rows for features that are not there yet; a mark on one of their tests proves a part of the row."""


def test_each_row_is_proved_or_waits() -> None:
    rows = {f"P{section}.{number}" for section, count in ROWS.items() for number in range(1, count + 1)}
    files = Path(__file__).parents[1].rglob("test_*.py")
    marked = {row for file in files for row in re.findall(r'mark\.parity\("(P[\d.]+)"\)', file.read_text())}

    assert marked - rows == set()
    assert rows - marked - WAITING == set(), "these rows have no test"


class Flaky:
    """A body that fails a number of times, and remembers its attempts."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.attempts: list[int] = []

    async def __call__(self) -> str:
        self.attempts.append(current_step().attempt)
        if len(self.attempts) <= self.failures:
            raise ValueError(f"failure {len(self.attempts)}")
        return "done"


# ------------------------------------------------------------------------------------------------- 1. Ploy


@pytest.mark.parity("P1.2")
async def test_retries_0_fails_at_once_and_the_step_s_own_win() -> None:
    app, once, often = App(), Flaky(99), Flaky(10)

    @app.workflow(retries=0)
    async def flow(step: Step, name: str) -> str:
        if name == "once":
            return await step.run("charge", once)
        return await step.run("charge", often, retries=10)

    async with sandbox(app) as tester:
        failing, patient = await flow.trigger("once"), await flow.trigger("often")
        await tester.settle()
        assert (await failing.status(), once.attempts) == ("failed", [1])

        await tester.advance("5 minutes")
        assert await patient.result() == "done"
        assert often.attempts == list(range(1, 12))


@pytest.mark.parity("P1.3")
async def test_4_attempts_by_default_1_2_and_4_seconds_apart_over_crashes() -> None:
    app, body = App(), Flaky(99)

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("charge", body)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        for wait in (1, 2, 4):
            await tester.advance(wait / 2)
            await tester.crash()
            await tester.advance(wait)

        [step] = await execution.steps()
        times = [attempt.started_at for attempt in step.attempts]
        gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
        assert (await execution.status(), body.attempts, step.attempt) == ("failed", [1, 2, 3, 4], 4)
        assert all(wait <= gap <= wait * 1.25 for wait, gap in zip((1, 2, 4), gaps, strict=True))


@pytest.mark.parity("P1.5")
async def test_a_web_handler_triggers_and_answers_with_the_id() -> None:
    app = App()
    sent: list[Any] = []

    @app.workflow
    async def order_processing(step: Step, order: Order) -> str:
        return order.id

    @app.workflow
    async def nightly(step: Step) -> str:
        return "without input"

    async def asgi(
        scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[Any]]
    ) -> None:
        body = json.loads((await receive())["body"])
        execution = await order_processing.trigger(body)
        await send(json.dumps({"executionId": execution.id}))

    async def receive() -> dict[str, bytes]:
        return {"body": b'{"id": "a", "total": 5}'}

    async def send(message: Any) -> None:
        sent.append(message)

    async with sandbox(app):
        await asgi({"type": "http"}, receive, send)
        execution_id = json.loads(sent[0])["executionId"]

        assert await order_processing.get_execution(execution_id).result() == "a"
        assert await (await nightly.trigger()).result() == "without input"


@pytest.mark.parity("P1.6")
async def test_an_execution_is_looked_up_by_its_id_in_one_shape_everywhere() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, ok: bool) -> dict[str, int]:
        await step.sleep("nap", 60)
        if not ok:
            raise ValueError("no")
        return {"total": 5}

    async with sandbox(app) as tester:
        good, bad = await flow.trigger(True), await flow.trigger(False)
        await tester.settle()
        assert [await one.status() for one in (good, bad)] == ["sleeping", "sleeping"]
        await tester.advance("1 minute")

        info = await flow.get_execution(good.id).info()
        assert (info.status, info.output, info.error) == ("completed", {"total": 5}, None)
        listed = (await app.list_executions()).executions
        [*watched] = [one async for one in app.get_execution(bad.id).watch()]
        assert {frozenset(one.to_dict()) for one in (info, *listed, *watched)} == {frozenset(info.to_dict())}
        assert watched[0].status == "failed"


@pytest.mark.parity("P1.7")
async def test_cancel_is_at_once_and_final() -> None:
    app, events, started = App(), list[str](), asyncio.Event()

    async def slow() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            events.append("body cancelled")
            raise

    @app.workflow
    async def flow(step: Step) -> str:
        try:
            await step.run("slow", slow)
        finally:
            events.append("workflow left")
            await step.run("later", events.append, "a later step ran")
        return "overwritten"

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await started.wait()
        await execution.cancel("customer called")
        assert await execution.status() == "cancelled"
        await tester.advance("1 hour")

        assert "a later step ran" not in events
        assert "body cancelled" in events
        info = await execution.info()
        assert (info.status, info.output, info.reason) == ("cancelled", None, "customer called")
        with pytest.raises(ExecutionCancelledError):
            await execution.result()


@pytest.mark.parity("P1.8")
async def test_a_handler_gets_input_env_and_step() -> None:
    app = App(database="sqlite://")

    @app.resource
    async def db() -> AsyncGenerator[dict[str, int]]:
        yield {"stock": 3}

    def reserve(order: Order, stock: int) -> int:
        return stock - order.total

    @app.workflow
    async def flow(step: Step, order: Order, *, env: Any) -> int:
        return await step.run(
            "reserve", reserve, order, env.db["stock"], retries=5, input={"sku": "a"}
        ) + await step.run("preview", reserve, order, 3)

    async with app.running():
        execution = await flow.trigger(Order("a", 1))

        assert await execution.result() == 4
        [given, preview] = await execution.steps()
        assert given.input == {"sku": "a"}
        assert preview.input == [{"id": "a", "total": 1}, 3]


@pytest.mark.parity("P1.8")
async def test_the_recorded_input_of_a_step_may_be_a_dataclass() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, order: Order) -> str:
        return await step.run("reserve", lambda: "reserved", input=order)

    async with sandbox(app):
        execution = await flow.trigger(Order("a", 1))

        assert await execution.result() == "reserved"
        assert (await execution.steps())[0].input == {"id": "a", "total": 1}


@pytest.mark.parity("P1.9")
async def test_a_sleep_keeps_its_end_over_restarts_and_is_not_slept_twice() -> None:
    app, ends = App(), list[datetime]()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.sleep("5 seconds")
        await step.sleep("named", 60)
        ends.append(await step.now("end"))

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        for _ in range(4):
            await tester.advance(15)
            await tester.crash()
        assert (await execution.info()).wake_at == START + timedelta(seconds=65)
        await tester.advance(5)

        assert await execution.status() == "completed"
        assert ends[0] == START + timedelta(seconds=65)


@pytest.mark.parity("P1.10")
async def test_results_stay_with_their_names_when_the_code_changes(tmp_path: Path) -> None:
    database, runs = f"sqlite:///{tmp_path}/test.db", list[str]()

    def work(name: str) -> str:
        runs.append(name)
        return name

    async def parent(name: str) -> list[str]:
        step = current_step()
        return [await step.run("child", work, f"{name}/child"), await step.run("child", work, "again")]

    before, after = App(), App()

    @before.workflow(name="flow")
    async def old(step: Step) -> list[Any]:
        results = [await step.run("a", work, "a"), await step.run("b", parent, "b"), await step.run("a", work, "a")]
        await step.sleep("nap", "1 hour")
        return results

    @after.workflow(name="flow")
    async def new(step: Step) -> list[Any]:
        results = [await step.run("new", work, "new"), await step.run("b", parent, "b"), await step.run("a", work, "a")]
        await step.sleep("nap", "1 hour")
        return results

    async with sandbox(before, database=database) as tester:
        await old.trigger(id="A-1")
        await tester.settle()
        assert runs == ["a", "b/child"]
    async with sandbox(after, database=database) as tester:
        await tester.advance("1 hour")
        output = await new.get_execution("A-1").result()

    assert output == ["new", ["b/child", "b/child"], "a"]
    assert runs == ["a", "b/child", "new"]


@pytest.mark.parity("P1.11")
async def test_values_are_the_same_live_and_on_replay_and_can_be_seen() -> None:
    app, seen = App(), list[object]()

    async def typed() -> Order:
        return Order("a", 5)

    def untyped():
        return {"when": START, "pair": (1, 2), "names": {"x"}}

    @app.workflow
    async def flow(step: Step, order: Order) -> Order:
        seen.append(await step.run("typed", typed, input={"of": order.id}))
        seen.append(await step.run("untyped", untyped))
        await step.sleep("nap", 60)
        return order

    async with sandbox(app) as tester:
        execution = await flow.trigger(Order("b", 6))
        await tester.settle()
        await tester.crash()
        await tester.advance("1 minute")

        values = [Order("a", 5), {"when": START, "pair": (1, 2), "names": {"x"}}]
        assert len(seen) >= 4
        assert seen == values * (len(seen) // 2)
        info, steps = await execution.info(), await execution.steps()
        assert (info.input, info.output) == ({"id": "b", "total": 6}, Order("b", 6))
        assert (steps[0].input, steps[0].output) == ({"of": "b"}, {"id": "a", "total": 5})


@pytest.mark.parity("P1.12")
async def test_on_error_runs_before_the_execution_is_failed_and_may_run_steps() -> None:
    app, notes = App(retries=0), list[str]()

    @app.workflow
    async def flow(step: Step, order: Order) -> None:
        raise ValueError("card declined")

    @flow.on_error
    async def release(step: Step, order: Order, error: BaseException) -> None:
        assert isinstance(error, ValueError)
        note = f"{order.id}: {error}, {await flow.get_execution(step.execution_id).status()}"
        await step.run("release", notes.append, note)
        raise RuntimeError("what on_error raises is ignored")

    async with sandbox(app) as tester:
        execution = await flow.trigger(Order("a", 1))
        await tester.settle()
        with pytest.raises(ExecutionFailedError, match="card declined"):
            await execution.result()

        assert notes == ["a: card declined, running"]
        steps = [(step.path, step.status) for step in await execution.steps()]
        assert steps == [("#on_error", "failed"), ("#on_error/release", "completed")]


@pytest.mark.parity("P1.13")
async def test_a_long_workflow_continues_by_itself_after_a_crash() -> None:
    app, runs = App(), list[str]()

    @app.workflow
    async def flow(step: Step) -> str:
        for number in range(6):
            await step.run(f"work-{number}", runs.append, str(number))
            await step.sleep(f"nap-{number}", "1 day")
        return "done"

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        for _ in range(6):
            await tester.settle()
            await tester.crash()
            await tester.advance("1 day")

        assert await execution.result() == "done"
        assert runs == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parity("P1.16")
async def test_numbers_are_seconds_and_large_nameless_ones_warn(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, seconds: int) -> datetime:
        await step.sleep(seconds)
        return await step.now("end")

    async with sandbox(app) as tester:
        short, long = await flow.trigger(999), await flow.trigger(5000)
        await tester.advance("2 hours")

        assert await short.result() == START + timedelta(seconds=999)
        assert await long.result() == START + timedelta(seconds=5000)
    warnings = {record.getMessage() for record in caplog.records if record.levelno == logging.WARNING}
    assert [message for message in warnings if "999" in message] == []
    assert any("5000" in message and "seconds" in message and "ms" in message for message in warnings)


# ------------------------------------------------------------------------------------------------- 3. Cloudflare


@pytest.mark.parity("P3.2")
async def test_an_app_has_several_workflows_each_with_a_name_of_its_own() -> None:
    app = App()

    @app.workflow
    async def orders(step: Step) -> str:
        return "orders"

    @app.workflow
    def mails(step: SyncStep) -> str:
        return "mails"

    with pytest.raises(InvalidInputError, match="'mails' is defined already"):
        app.workflow(name="mails")(orders.function)
    async with sandbox(app):
        assert [await (await workflow.trigger()).result() for workflow in (orders, mails)] == ["orders", "mails"]


@pytest.mark.parity("P3.3")
async def test_each_step_is_tried_again_alone() -> None:
    app, first, second = App(), Flaky(0), Flaky(2)

    @app.workflow
    async def flow(step: Step) -> list[str]:
        return [
            await step.run("first", first),
            await step.run("second", second),
            await step.run("third", lambda: "third"),
        ]

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.advance("1 minute")

        assert await execution.result() == ["done", "done", "third"]
        assert (first.attempts, second.attempts) == ([1], [1, 2, 3])


@pytest.mark.parity("P3.4")
async def test_step_do_takes_limit_delay_backoff_and_timeout() -> None:
    app, calls, started = App(), list[int](), asyncio.Event()

    @app.workflow
    async def flow(step: Step) -> str:
        @step.do("call", retries=3, retry_delay="10 seconds", backoff="constant", timeout="5 seconds")
        async def call() -> str:
            calls.append(step.attempt)
            started.set()
            if len(calls) == 1:
                await asyncio.Event().wait()
            if len(calls) < 4:
                raise ValueError("again")
            return "done"

        return await call()

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await started.wait()
        # `advance` would wait for the body, which hangs until its timeout.
        tester.clock.move_to(tester.clock.now() + 5_000_000)
        await tester.advance("50 seconds")

        assert await execution.result() == "done"
        [step] = await execution.steps()
        assert (calls, step.attempt) == ([1, 2, 3, 4], 4)
        assert step.attempts[0].error.type.endswith("StepTimeoutError")


@pytest.mark.parity("P3.6")
async def test_create_with_an_id_look_and_terminate() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, order: Order) -> tuple[str, datetime, Order]:
        await step.sleep("nap", "1 hour")
        return step.execution_id, step.created_at, order

    async with sandbox(app) as tester:
        mine = await flow.trigger(Order("a", 1), id="A-1")
        other = await flow.trigger(Order("b", 2))
        await tester.settle()
        assert (mine.id, (await mine.info()).status, other.id != "A-1") == ("A-1", "sleeping", True)
        await other.cancel()
        await tester.advance("1 hour")

        assert await mine.result() == ("A-1", START, Order("a", 1))
        assert await other.status() == "cancelled"


@pytest.mark.parity("P3.10")
async def test_all_executions_run_in_parallel_each_to_its_end() -> None:
    app, running, everybody = App(), list[int](), asyncio.Event()

    async def meet(number: int) -> int:
        running.append(number)
        if len(running) == 50:
            everybody.set()
        await everybody.wait()
        if number % 2:
            raise NonRetryableError("odd")
        return number

    @app.workflow
    async def flow(step: Step, number: int) -> int:
        return await step.run("meet", meet, number)

    async with sandbox(app) as tester:
        executions = [await flow.trigger(number) for number in range(50)]
        await tester.settle()

        assert [await execution.status() for execution in executions] == ["completed", "failed"] * 25


# ------------------------------------------------------------------------------------------------- 4. agents


@pytest.mark.parity("P4.1")
@pytest.mark.guarantee("G3")
async def test_a_finished_step_runs_once_whatever_happens_later() -> None:
    app, runs, started = App(), list[str](), asyncio.Event()

    async def interrupted() -> str:
        runs.append("interrupted")
        started.set()
        if len(runs) == 2:
            await asyncio.Event().wait()
        return "done"

    @app.workflow
    async def flow(step: Step) -> str:
        await step.run("paid", runs.append, "paid")
        return await step.run("interrupted", interrupted)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await started.wait()
        await tester.crash()

        assert await execution.result() == "done"
        assert runs == ["paid", "interrupted", "interrupted"]


@pytest.mark.parity("P4.3")
async def test_sleeping_executions_take_no_memory() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.sleep("wait-for-fraud-check", "30 seconds")

    async with sandbox(app) as tester:
        executions = await flow.trigger_many([None] * 50)
        await tester.settle()
        assert {await execution.status() for execution in executions} == {"sleeping"}
        assert [task for task in asyncio.all_tasks() if any(one.id in task.get_name() for one in executions)] == []
        await tester.advance("30 seconds")

        assert {await execution.status() for execution in executions} == {"completed"}


@pytest.mark.parity("P4.4")
async def test_a_trigger_gives_id_and_status() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, params: dict[str, Any]) -> None:
        await step.sleep("nap", 60)

    async with sandbox(app):
        execution = await flow.trigger({"user": 5})

        assert execution.id
        assert await execution.status() in ("queued", "running", "sleeping")
        assert (await execution.info()).input == {"user": 5}


@pytest.mark.parity("P4.5")
async def test_a_name_that_comes_again_gives_the_first_result_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> list[str]:
        return [await step.run("ask", str.upper, "first"), await step.run("ask", str.upper, "second")]

    async with sandbox(app):
        execution = await flow.trigger()

        assert await execution.result() == ["FIRST", "FIRST"]
        assert [step.flag for step in await execution.steps()] == ["repeated"]
    assert any("'ask'" in record.getMessage() and record.levelno == logging.WARNING for record in caplog.records)


class Basket:
    """Something that JSON cannot say."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


@pytest.mark.parity("P4.6")
async def test_a_result_that_cannot_be_stored_is_a_clear_error_and_not_tried_again() -> None:
    app, runs = App(), list[str]()

    def fill() -> object:
        runs.append("ran")
        return Basket()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("fill", fill)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.advance("1 minute")

        with pytest.raises(ExecutionFailedError, match=r"SerializationError: .*'fill'.*Basket"):
            await execution.result()
        assert runs == ["ran"]


@pytest.mark.parity("P4.8")
@pytest.mark.guarantee("G4")
async def test_what_a_lost_worker_still_does_is_thrown_away() -> None:
    app, release, started = App(), threading.Event(), asyncio.Event()
    runs: list[str] = []
    loop = asyncio.get_running_loop()

    def charge() -> str:
        runs.append("run")
        if len(runs) == 1:
            loop.call_soon_threadsafe(started.set)
            release.wait(10)
            return "from the lost worker"
        return "from the new worker"

    @app.workflow
    async def flow(step: Step) -> str:
        result = await step.run("charge", charge)
        await step.sleep("nap", 60)
        return result

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await started.wait()
        await tester.crash()
        await tester.settle()
        release.set()
        await tester.advance("1 minute")

        assert await execution.result() == "from the new worker"
        assert runs == ["run", "run"]


# ------------------------------------------------------------------------------------------------- 5. Botpress


@pytest.mark.parity("P5.1")
async def test_a_workflow_may_have_a_timeout_and_has_none_by_default() -> None:
    app = App()

    @app.workflow(timeout="5 minutes", retention=None)
    async def limited(step: Step) -> None:
        await step.sleep("nap", "1 hour")

    @app.workflow
    async def patient(step: Step) -> None:
        await step.sleep("nap", "52 weeks")

    async with sandbox(app) as tester:
        one, other = await limited.trigger(), await patient.trigger()
        await tester.advance("5 minutes")
        assert [await one.status(), await other.status()] == ["failed", "sleeping"]
        await tester.advance("52 weeks")

        error = (await one.info()).error
        assert error is not None
        assert error.type.endswith("ExecutionTimeoutError")
        assert await other.status() == "completed"


@pytest.mark.parity("P5.2")
async def test_attempts_count_from_1_and_are_retries_plus_1() -> None:
    app, body = App(), Flaky(99)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("call", body, retries=4)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.advance("5 minutes")

        assert body.attempts == [1, 2, 3, 4, 5]
        assert (await execution.steps())[0].attempt == 5


@pytest.mark.parity("P5.3")
async def test_nested_steps_have_scopes_and_one_name_runs_once_at_a_time() -> None:
    app, runs = App(), list[str]()

    async def work(text: str) -> str:
        runs.append(text)
        await asyncio.sleep(0.01)
        return text

    async def parent(name: str) -> str:
        step = current_step()
        asyncio.get_running_loop().call_soon(lambda: None)
        forgotten = asyncio.create_task(step.run("forgotten", work, f"{name}/forgotten"))
        del forgotten
        await asyncio.sleep(0)
        return await step.run("child", work, f"{name}/child")

    @app.workflow
    async def flow(step: Step) -> list[str]:
        both = await asyncio.gather(step.run("same", work, "same"), step.run("same", work, "same"))
        return [*both, await step.run("a", parent, "a"), await step.run("b", parent, "b")]

    async with sandbox(app):
        execution = await flow.trigger()

        assert await execution.result() == ["same", "same", "a/child", "b/child"]
        assert sorted(runs) == ["a/child", "a/forgotten", "b/child", "b/forgotten", "same"]
        statuses = {step.path: step.status for step in await execution.steps()}
        assert statuses == dict.fromkeys(
            ["same", "a", "a/forgotten", "a/child", "b", "b/forgotten", "b/child"], "completed"
        )


class CardError(Exception):
    """An error whose constructor is not made of its arguments."""

    def __init__(self, card: str, *, amount: int) -> None:
        super().__init__(f"card {card} declined")
        self.amount = amount


@pytest.mark.parity("P5.4")
async def test_an_exhausted_step_raises_the_same_live_and_on_replay_and_may_be_caught() -> None:
    app, caught = App(retries=1), list[tuple[type, str, int]]()

    async def charge() -> None:
        raise CardError("4242", amount=5)

    @app.workflow
    async def flow(step: Step, catch: bool) -> str:
        try:
            await step.run("charge", charge)
        except CardError as error:
            caught.append((type(error), str(error), error.amount))
            if not catch:
                raise
        await step.sleep("nap", 60)
        return "went on"

    async with sandbox(app) as tester:
        good, bad = await flow.trigger(True), await flow.trigger(False)
        await tester.advance("10 seconds")
        await tester.crash()
        await tester.advance("1 minute")

        assert await good.result() == "went on"
        with pytest.raises(ExecutionFailedError, match="card 4242 declined") as failed:
            await bad.result()
        assert isinstance(failed.value.__cause__, CardError | StepFailedError)
        assert len(caught) >= 3
        assert set(caught) == {(CardError, "card 4242 declined", 5)}


@pytest.mark.parity("P5.5")
async def test_sleep_until_waits_for_its_date_and_not_for_the_past() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, dates: list[datetime]) -> list[datetime]:
        ends: list[datetime] = []
        for number, date in enumerate(dates):
            await step.sleep_until(f"date-{number}", date)
            ends.append(await step.now(f"end-{number}"))
        return ends

    @app.workflow
    async def garbage(step: Step) -> None:
        await step.sleep("nap", "a while")

    async with sandbox(app) as tester:
        execution = await flow.trigger([datetime(1999, 1, 1, tzinfo=UTC), START + timedelta(days=3), START])
        await tester.advance("3 days")

        later = START + timedelta(days=3)
        assert await execution.result() == [START, later, later]
        with pytest.raises(ExecutionFailedError, match=r"duration must be .*'a while'"):
            await (await garbage.trigger()).result()


@pytest.mark.parity("P5.6")
async def test_progress_is_in_the_history() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.progress("Halfway done", fraction=0.5)
        await step.sleep("nap", 60)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        await tester.crash()
        await tester.advance("1 minute")

        [milestone] = [step for step in await execution.steps() if step.kind == "progress"]
        assert (milestone.name, milestone.output) == ("Halfway done", {"message": "Halfway done", "fraction": 0.5})


@pytest.mark.parity("P5.12")
@pytest.mark.guarantee("G2")
async def test_each_step_is_committed_before_the_next_begins(tmp_path: Path) -> None:
    app, seen = App(), list[list[str]]()

    def look() -> None:
        connection = sqlite3.connect(f"file:{tmp_path}/test.db?mode=ro", uri=True)
        rows = connection.execute("SELECT path FROM stepwell_steps WHERE status = 'completed' ORDER BY path").fetchall()
        connection.close()
        seen.append([path for (path,) in rows])

    @app.workflow
    async def flow(step: Step) -> None:
        for number in range(4):
            await step.run(f"look-{number}", look)

    async with sandbox(app, database=f"sqlite:///{tmp_path}/test.db"):
        await (await flow.trigger()).result()

    assert seen == [[f"look-{number}" for number in range(count)] for count in range(4)]
