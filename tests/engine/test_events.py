"""Events: accepted once, received once, in order, whenever they come."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    App,
    EventTimeoutError,
    ExecutionNotFoundError,
    InvalidInputError,
    InvalidTransitionError,
    SerializationError,
    Step,
    StepTimeoutError,
    SyncStep,
    WorkflowCodeError,
    current_step,
)
from stepwell.testing import sandbox
from tests.engine.conftest import in_memory, statuses, until

pytestmark = pytest.mark.anyio


@dataclass
class Payment:
    id: str
    cents: int


@pytest.mark.parity("P5.7")
async def test_a_listening_execution_takes_no_memory_and_resumes_with_the_payload() -> None:
    app = App()

    @app.workflow
    async def order(step: Step) -> Payment:
        return await step.listen("wait-for-payment", event="payment", returns=Payment)

    async with sandbox(app) as tester:
        execution = await order.trigger()
        await tester.settle()

        info = await execution.info()
        assert (info.status, info.waiting_for, info.wake_at) == ("listening", "wait-for-payment", None)
        assert await statuses(execution) == {"wait-for-payment": "listening"}
        assert in_memory(tester) == set()

        await execution.send_event("payment", Payment("p1", 995))
        assert await execution.result(5) == Payment("p1", 995)
        assert await statuses(execution) == {"wait-for-payment": "completed"}


@pytest.mark.parity("P5.7")
@pytest.mark.guarantee("G7")
async def test_events_wait_in_order_by_name_until_somebody_listens() -> None:
    app, gate = App(), asyncio.Event()

    @app.workflow
    async def collect(step: Step) -> list[object]:
        await step.run("gate", gate.wait)
        letters = [await step.listen(f"letter-{i}", event="letter") for i in range(3)]
        return [*letters, await step.listen("number")]

    async with sandbox(app) as tester:
        execution = await collect.trigger()
        await execution.send_event("number", 1)
        for letter in "abc":
            await execution.send_event("letter", letter)
        gate.set()
        await tester.settle()

        assert await execution.result(5) == ["a", "b", "c", 1]


@pytest.mark.guarantee("G7")
async def test_two_listeners_of_one_event_are_served_in_the_order_in_which_they_were_recorded() -> None:
    app = App()

    @app.workflow
    async def both(step: Step) -> list[object]:
        async def late() -> object:
            await step.run("first-something-else", asyncio.sleep, 0)
            return await step.listen("second", event="go")

        return list(await asyncio.gather(late(), step.listen("first", event="go")))

    async with sandbox(app) as tester:
        execution = await both.trigger()
        await tester.settle()
        # Now the first branch is at its listen at once, before the other one: the record decides, not the order of calls.
        await tester.crash()
        await tester.settle()

        await execution.send_event("go", 1)
        await tester.settle()
        assert await statuses(execution) == {
            "first-something-else": "completed",
            "first": "completed",
            "second": "listening",
        }
        await execution.send_event("go", 2)
        assert await execution.result(5) == [2, 1]


@pytest.mark.guarantee("G7")
async def test_two_listeners_and_two_events_that_were_there_before() -> None:
    app, gate = App(), asyncio.Event()

    @app.workflow
    async def both(step: Step) -> list[object]:
        await step.run("gate", gate.wait)
        return await asyncio.gather(*(step.listen(f"l{i}", event="go") for i in range(5)))

    async with sandbox(app):
        execution = await both.trigger()
        for i in range(5):
            await execution.send_event("go", i)
        gate.set()

        assert await execution.result(5) == [0, 1, 2, 3, 4]


@pytest.mark.guarantee("G6")
async def test_the_time_of_a_listen_is_stored_and_a_crash_does_not_prolong_it() -> None:
    app = App()

    @app.workflow
    async def patient(step: Step) -> str:
        try:
            await step.listen("answer", timeout="1 hour")
        except EventTimeoutError as error:
            return str(error)
        return "answered"

    async with sandbox(app) as tester:
        execution = await patient.trigger()
        await tester.settle()
        await tester.advance("40 minutes")
        await tester.crash()
        await tester.advance("19 minutes")
        assert await execution.status() == "listening"

        await tester.advance("1 minute")
        assert await execution.result(5) == "No event 'answer' arrived for step 'answer' within 3600 s."
        [step] = await execution.steps()
        assert step.error is not None
        assert (step.status, step.error.type) == ("failed", "stepwell.errors.EventTimeoutError")


async def test_a_time_out_that_is_about_to_be_recorded_takes_an_event_that_is_there() -> None:
    app = App()

    @app.workflow
    async def patient(step: Step) -> object:
        await step.sleep("nap", "2 hours")
        return await step.listen("answer", timeout=0)

    async with sandbox(app) as tester:
        execution = await patient.trigger()
        other = await patient.trigger()
        await execution.send_event("answer", "there")
        await tester.advance("2 hours")

        assert await execution.result(5) == "there"
        await tester.settle()
        assert (await other.info()).status == "failed"


@pytest.mark.guarantee("G7")
async def test_an_event_within_a_deadline_is_received_by_nobody_but_the_next_listener() -> None:
    app = App()

    @app.workflow
    async def impatient(step: Step) -> list[object]:
        got: list[object] = []
        try:
            got.append(await step.within("limit", "1 minute", step.listen("first", event="go")))
        except StepTimeoutError:
            got.append("too late")
        got.append(await step.listen("second", event="go"))
        return got

    async with sandbox(app) as tester:
        execution = await impatient.trigger()
        await tester.settle()
        await tester.advance("2 minutes")
        await execution.send_event("go", 1)

        assert await execution.result(5) == ["too late", 1]
        assert (await statuses(execution))["first"] == "cancelled"


async def test_the_same_event_sent_twice_with_an_id_counts_once() -> None:
    app = App()

    @app.workflow
    async def collect(step: Step) -> list[object]:
        return [await step.listen("a", event="go"), await step.listen("b", event="go")]

    async with sandbox(app) as tester:
        execution = await collect.trigger()
        await execution.send_event("go", 1, id="payment-1")
        await tester.settle()
        # Received already; it counts all the same.
        await execution.send_event("go", 1, id="payment-1")
        await tester.settle()
        assert await statuses(execution) == {"a": "completed", "b": "listening"}
        with pytest.raises(InvalidInputError, match="payment-1"):
            await execution.send_event("other", 1, id="payment-1")

        await execution.send_event("go", 2, id="payment-2")
        assert await execution.result(5) == [1, 2]
        await execution.send_event("go", 2, id="payment-2")


async def test_events_to_nobody_are_errors() -> None:
    app = App()

    @app.workflow
    async def done(step: Step) -> None: ...

    async with sandbox(app):
        execution = await done.trigger()
        await execution.result(5)
        with pytest.raises(InvalidTransitionError, match="it is completed"):
            await execution.send_event("go")
        with pytest.raises(ExecutionNotFoundError):
            await done.send_event("nobody", "go")
        for name in ("", "x" * 201, "a\nb"):
            with pytest.raises(InvalidInputError):
                await execution.send_event(name)
        with pytest.raises(InvalidInputError, match="payload"):
            await execution.send_event("go", object())
        with pytest.raises(InvalidInputError, match="at most"):
            await execution.send_event("go", "x" * (2 << 20))


async def test_a_payload_that_does_not_fit_is_received_and_says_so_live_and_on_replay() -> None:
    app = App()

    @app.workflow
    async def order(step: Step) -> str:
        problem = ""
        try:
            await step.listen("payment", returns=Payment)
        except SerializationError as error:
            problem = str(error)
        await step.sleep("nap", "1 day")
        return problem

    async with sandbox(app) as tester:
        execution = await order.trigger()
        await execution.send_event("payment", {"id": 5})
        await tester.settle()
        await tester.crash()
        await tester.advance("1 day")

        problem = await execution.result(5)
        assert "'payment'" in problem
        assert "does not fit" in problem


async def test_defaults_that_the_sender_left_out_are_part_of_the_payload() -> None:
    app = App()

    @dataclass
    class Decision:
        by: str
        comment: str = "none"

    @app.workflow
    async def ask(step: Step) -> Decision:
        return await step.listen("decision", returns=Decision)

    async with sandbox(app):
        execution = await ask.trigger()
        await execution.send_event("decision", {"by": "ann"})
        await execution.result(5)
        assert (await app.get_execution(execution.id).info()).output == {"by": "ann", "comment": "none"}


async def test_cancel_while_listening() -> None:
    app = App()

    @app.workflow
    async def order(step: Step) -> None:
        await step.listen("payment")

    async with sandbox(app) as tester:
        execution = await order.trigger()
        await tester.settle()
        await execution.cancel()

        assert (await execution.status(), await statuses(execution)) == ("cancelled", {"payment": "cancelled"})


@pytest.mark.guarantee("G7")
async def test_an_event_waits_while_its_listener_is_paused_and_the_time_of_the_listen_goes_on() -> None:
    app = App()

    @app.workflow
    async def order(step: Step) -> object:
        return await step.listen("payment", timeout="1 hour")

    async with sandbox(app) as tester:
        paid, late = await order.trigger(), await order.trigger()
        await tester.settle()
        for execution in (paid, late):
            await execution.pause()
        await paid.send_event("payment", 5)
        await tester.advance("2 hours")
        assert [await execution.status() for execution in (paid, late)] == ["paused", "paused"]

        for execution in (paid, late):
            await execution.resume()
        assert await paid.result(5) == 5
        await tester.settle()
        info = await late.info()
        assert info.error is not None
        assert (info.status, info.error.type) == ("failed", "stepwell.errors.EventTimeoutError")


async def test_a_body_sends_an_event_once_however_often_it_runs() -> None:
    app, runs = App(), 0

    @app.workflow
    async def receiver(step: Step) -> list[object]:
        return [await step.listen("a", event="go"), await step.listen("b", event="go", timeout="1 hour")]

    @app.workflow
    async def sender(step: Step, target: str) -> None:
        async def send() -> None:
            nonlocal runs
            runs += 1
            await receiver.send_event(target, "go", runs)
            if runs == 1:
                raise ValueError("after sending")

        await step.run("send", send)
        with pytest.raises(WorkflowCodeError, match=r"step\.run"):
            await receiver.send_event(target, "go")

    async with sandbox(app) as tester:
        target = await receiver.trigger()
        execution = await sender.trigger(target.id)
        await tester.advance("5 seconds")
        await execution.result(5)
        await tester.settle()

        assert runs == 2
        assert await statuses(target) == {"a": "completed", "b": "listening"}


async def test_plain_workflows_and_bodies_listen_too() -> None:
    app = App()

    @app.workflow
    def plain(step: SyncStep) -> object:
        return step.listen("go")

    @app.workflow
    async def nested(step: Step) -> object:
        async def body() -> Any:
            return await current_step().listen("go")

        return await step.run("outer", body)

    async with sandbox(app) as tester:
        executions = [await plain.trigger(), await nested.trigger()]
        await tester.settle()
        await until(lambda: in_memory(tester) == set())
        for execution in executions:
            assert await execution.status() == "listening"
            await execution.send_event("go", {"n": 1})
        assert [await execution.result(5) for execution in executions] == [{"n": 1}, {"n": 1}]


@pytest.mark.guarantee("G7")
@pytest.mark.parametrize("turns", range(40))
async def test_an_event_at_any_moment_of_parking_wakes_its_execution(turns: int) -> None:
    app = App()

    @app.workflow
    async def order(step: Step) -> object:
        await step.run("before", asyncio.sleep, 0)
        return await step.listen("go", timeout="1 day")

    async with sandbox(app):
        for _ in range(25):
            execution = await order.trigger()
            for _ in range(turns):
                await asyncio.sleep(0)
            await execution.send_event("go", turns)
            assert await execution.result(5) == turns


@pytest.mark.guarantee("G7")
@pytest.mark.parametrize("turns", range(0, 40, 2))
async def test_a_crash_at_any_moment_neither_loses_nor_repeats_an_event(turns: int) -> None:
    app = App()

    @app.workflow
    async def collect(step: Step) -> list[object]:
        return [await step.listen(f"l{i}", event="go") for i in range(4)]

    async with sandbox(app) as tester:
        execution = await collect.trigger()
        for i in range(4):
            await execution.send_event("go", i)
            for _ in range(turns):
                await asyncio.sleep(0)
            await tester.crash()

        assert await execution.result(5) == [0, 1, 2, 3]


@pytest.mark.guarantee("G7")
@pytest.mark.guarantee("G9")
async def test_an_event_of_another_process_wakes_an_execution_in_memory_and_one_outside(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/events.db"
    app, stranger, busy = App(database=database), App(database=database), asyncio.Event()

    async def order(step: Step) -> object:
        return (await asyncio.gather(step.listen("go"), step.run("busy", busy.wait)))[0]

    resident = app.workflow(name="resident")(order)

    @app.workflow
    async def parked(step: Step) -> object:
        return await step.listen("go")

    async with app.running() as worker, stranger.connected():
        executions = [await resident.trigger(), await parked.trigger()]
        await until(lambda: worker.resident == 1 and worker.running_steps())
        await stranger.get_execution(executions[0].id).send_event("go", "a")
        busy.set()
        await stranger.get_execution(executions[1].id).send_event("go", "b")

        assert [await execution.result(5) for execution in executions] == ["a", "b"]


@pytest.mark.guarantee("G7")
@pytest.mark.parametrize("seconds", [3, 3600], ids=["in-memory", "parked"])
async def test_event_against_timeout_a_thousand_times(seconds: int) -> None:
    app, rng, times = App(), random.Random(1), 1_000

    @app.workflow
    async def order(step: Step) -> list[object]:
        try:
            return ["in time", await step.listen("first", event="go", timeout=seconds)]
        except EventTimeoutError:
            return ["too late", await step.listen("second", event="go")]

    async with sandbox(app) as tester:
        executions = [await order.trigger() for _ in range(times)]
        await tester.settle(30)

        sent, half = 0, asyncio.Event()

        async def send(number: int) -> None:
            nonlocal sent
            if number % 2:
                await half.wait()
            for _ in range(rng.randrange(6)):
                await executions[number].status()
            await executions[number].send_event("go", number)
            sent += 1

        async def time_passes() -> None:
            await until(lambda: sent > times / 4)
            half.set()
            due = tester.clock.next_at()
            assert due is not None
            tester.clock.move_to(max(due, tester.clock.now() + seconds * 1_000_000))

        await asyncio.gather(time_passes(), *(send(number) for number in range(times)))
        results = [await execution.result(30) for execution in executions]

        assert [payload for _, payload in results] == list(range(times))
        assert {when for when, _ in results} == {"in time", "too late"}
        for execution, (when, _) in zip(executions, results, strict=True):
            received = {"first": "completed"} if when == "in time" else {"first": "failed", "second": "completed"}
            assert await statuses(execution) == received


@pytest.mark.guarantee("G7")
async def test_an_event_in_the_gap_between_the_look_and_the_parking_is_not_lost(tmp_path: Path) -> None:
    app = App(database=f"sqlite:///{tmp_path}/gap.db")
    in_the_gap = "SELECT 1 FROM steps JOIN executions ON id = execution_id WHERE id = ? AND owner IS NOT NULL"

    @app.workflow
    async def order(step: Step) -> object:
        return await step.listen("go")

    async with app.running():
        with closing(sqlite3.connect(tmp_path / "gap.db", isolation_level=None)) as connection:
            for number in range(20):
                execution = await order.trigger()
                # The lock holds open what lies between the record that the step listens and the parking.
                async with asyncio.timeout(5):
                    connection.execute("BEGIN IMMEDIATE")
                    while connection.execute(in_the_gap, (execution.id,)).fetchone() is None:
                        connection.execute("ROLLBACK")
                        await asyncio.sleep(0)
                        connection.execute("BEGIN IMMEDIATE")
                await execution.send_event("go", number, connection=connection)
                connection.execute("COMMIT")

                assert await execution.result(5) == number
