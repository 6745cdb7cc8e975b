"""Children: started exactly once, waited for, and cancelled with a parent that ends badly."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    App,
    ChildFailedError,
    Execution,
    ExecutionExistsError,
    ExecutionNotFoundError,
    InvalidInputError,
    Step,
    SyncStep,
    WorkflowCodeError,
    current_step,
)
from stepwell.testing import Tester, sandbox
from tests.api.conftest import Order
from tests.engine.conftest import Ledger, in_memory, statuses, until

pytestmark = pytest.mark.anyio


def family(ledger: Ledger) -> App:
    """A parent that executes a child, and what else the tests need."""
    app = App()

    @app.workflow
    async def child(step: Step, number: int) -> int:
        await step.run("note", ledger.note, f"child {number}")
        await step.sleep("nap", "1 minute")
        if number < 0:
            raise ValueError(f"{number} is negative")
        return number * 2

    @app.workflow
    async def parent(step: Step, number: int) -> int:
        return await step.execute_workflow("work", child, number) + 1

    return app


@pytest.mark.parity("P5.9")
async def test_a_child_is_executed_and_its_output_is_typed(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def ship(step: Step, order: Order) -> Order:
        return order

    @app.workflow
    async def parent(step: Step, order: Order) -> str:
        shipped = await step.execute_workflow("ship", ship, order)
        handle = await step.start_workflow("again", ship, order)
        again = await step.wait_for_workflow("wait", handle)
        assert isinstance(shipped, Order)
        assert shipped == again == order
        return handle.id

    async with sandbox(app):
        execution = await parent.trigger(Order("o-1", 5))
        started = await execution.result(5)

        children = await execution.children()
        assert [(each.workflow, each.status, each.parent_id) for each in children] == [
            ("ship", "completed", execution.id)
        ] * 2
        assert started in {each.id for each in children}
        assert all(each.id.startswith("c-") and len(each.id) == 28 for each in children)


async def test_the_parent_takes_no_memory_while_its_child_lives(ledger: Ledger) -> None:
    app = family(ledger)
    async with sandbox(app) as tester:
        execution = await app.workflows["parent"].trigger(5)
        await tester.settle()
        await until(lambda: in_memory(tester) == set())

        info = await execution.info()
        assert (info.status, info.waiting_for) == ("listening", "work")
        await tester.advance("1 minute")
        assert await execution.result(5) == 11


@pytest.mark.parity("P5.9")
@pytest.mark.parametrize("turns", range(0, 60, 2))
async def test_exactly_one_child_whatever_crashes(turns: int, ledger: Ledger) -> None:
    app = family(ledger)
    async with sandbox(app) as tester:
        execution = await app.workflows["parent"].trigger(5)
        for _ in range(4):
            for _ in range(turns):
                await asyncio.sleep(0)
            await tester.crash()
        await tester.advance("2 minutes")
        await tester.advance("2 minutes")

        assert await execution.result(5) == 11
        assert len(await execution.children()) == 1


@pytest.mark.parity("P5.9")
async def test_a_child_that_fails_raises_in_its_parent_with_its_id_and_error(ledger: Ledger) -> None:
    app = family(ledger)
    child = app.workflows["child"]

    @app.workflow
    async def careful(step: Step) -> list[str]:
        try:
            await step.execute_workflow("work", child, -1)
        except ChildFailedError as error:
            await step.sleep("nap", "1 day")
            return [error.execution_id, error.status, str(error)]
        return []

    async with sandbox(app) as tester:
        execution = await careful.trigger()
        await tester.advance("1 minute")
        await tester.crash()
        await tester.advance("1 day")

        [failed] = await execution.children()
        id, status, text = await execution.result(5)
        assert (id, status) == (failed.id, "failed")
        assert text == f"Child execution {id!r} ended as failed: ValueError: -1 is negative"


async def test_a_cancelled_child_raises_too(ledger: Ledger) -> None:
    app = family(ledger)
    async with sandbox(app) as tester:
        execution = await app.workflows["parent"].trigger(1)
        await tester.settle()
        [child] = await execution.children()
        await app.get_execution(child.id).cancel("not wanted")
        await tester.settle()

        info = await execution.info()
        assert info.error is not None
        assert (info.status, info.error.type) == ("failed", "stepwell.errors.ChildFailedError")
        assert "ended as cancelled: not wanted" in info.error.message


@pytest.mark.parity("P5.9")
async def test_input_is_checked_before_anything_is_written(ledger: Ledger) -> None:
    app = family(ledger)
    child: Any = app.workflows["child"]

    @app.workflow
    async def parent_of_none(step: Step) -> None:
        await step.execute_workflow("work", child, "a word")

    async with sandbox(app):
        execution = await parent_of_none.trigger()
        with pytest.raises(Exception, match="InvalidInputError"):
            await execution.result(5)
        assert (await execution.children(), await execution.steps()) == ([], [])


async def _ended_badly(tester: Tester, parent: Execution[Any], how: str) -> None:
    if how == "cancelled":
        await parent.cancel()
    else:
        await tester.advance("10 seconds")


@pytest.mark.parity("P5.9")
@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_attached_children_are_cancelled_with_their_parent_and_detached_ones_are_not(
    how: str, ledger: Ledger
) -> None:
    app = family(ledger)
    child, parent = app.workflows["child"], app.workflows["parent"]

    @app.workflow
    async def grandparent(step: Step) -> None:
        await step.start_workflow("attached", child, 1)
        await step.start_workflow("with-child", parent, 2)
        await step.start_workflow("detached", child, 3, detached=True)
        await step.sleep("nap", "10 seconds")
        raise ValueError("enough")

    async with sandbox(app) as tester:
        execution = await grandparent.trigger()
        await tester.settle()
        await _ended_badly(tester, execution, how)
        await tester.settle()
        await until(lambda: in_memory(tester) == set())

        children = {each.input or each.id: each for each in await execution.children()}
        steps = {step.path: step.output for step in await execution.steps()}
        status = {
            path: await app.get_execution(steps[path]).status() for path in ("attached", "with-child", "detached")
        }
        assert status == {"attached": "cancelled", "with-child": "cancelled", "detached": "sleeping"}
        assert len(children) == 3
        [grandchild] = await app.get_execution(steps["with-child"]).children()
        assert grandchild.status == "cancelled"
        assert grandchild.reason == f"its parent {steps['with-child']} has ended"


async def test_a_child_of_a_completed_parent_goes_on(ledger: Ledger) -> None:
    app = family(ledger)
    child = app.workflows["child"]

    @app.workflow
    async def starter(step: Step) -> str:
        return (await step.start_workflow("child", child, 4)).id

    async with sandbox(app) as tester:
        id = await (await starter.trigger()).result(5)
        await tester.advance("1 minute")
        assert await child.get_execution(id).result(5) == 8


async def test_a_parent_cancelled_by_a_client_without_worker_takes_its_children_along(
    tmp_path: Path, ledger: Ledger
) -> None:
    app = family(ledger)
    app.use_database(f"sqlite:///{tmp_path}/family.db")
    async with app.running() as worker:
        execution = await app.workflows["parent"].trigger(1)
        await until(lambda: ledger == ["child 1"] and worker.resident == 0)
    async with app.connected():
        await app.get_execution(execution.id).cancel()
        [child] = await app.get_execution(execution.id).children()
        assert child.status == "cancelled"


async def test_ids_of_one_s_own(ledger: Ledger) -> None:
    app = family(ledger)
    child = app.workflows["child"]

    @app.workflow
    async def named(step: Step, id: str) -> str:
        try:
            handle = await step.start_workflow("start", child, 1, id=id)
        except ExecutionExistsError as error:
            return str(error)
        await step.sleep("nap", "1 day")
        return handle.id

    async with sandbox(app) as tester:
        first, second = await named.trigger("mine"), await named.trigger("theirs")
        await child.trigger(1, id="theirs-2")
        third = await named.trigger("theirs-2")
        await tester.settle()
        await tester.crash()
        fourth = await named.trigger("mine")
        itself = await named.trigger("self", id="self")
        await tester.advance("1 day")

        assert [await first.result(5), await second.result(5)] == ["mine", "theirs"]
        assert "'theirs-2' already exists" in await third.result(5)
        assert "'mine' already exists" in await fourth.result(5)
        with pytest.raises(Exception, match="an id of its own"):
            await itself.result(5)


@pytest.mark.parity("P5.14")
async def test_waiting_for_any_execution_by_its_id(ledger: Ledger) -> None:
    app = family(ledger)
    child = app.workflows["child"]

    @app.workflow
    async def waiter(step: Step, id: str) -> object:
        try:
            return await step.wait_for_workflow("wait", id)
        except ExecutionNotFoundError:
            return "nobody"

    @app.workflow
    async def narcissus(step: Step) -> object:
        return await step.wait_for_workflow("wait", step.execution_id)

    async with sandbox(app) as tester:
        other = await child.trigger(21)
        execution, lost = await waiter.trigger(other.id), await waiter.trigger("nowhere")
        await tester.settle()
        assert await execution.status() == "listening"
        await tester.advance("1 minute")
        assert [await execution.result(5), await lost.result(5)] == [42, "nobody"]
        # It has ended: no wait at all.
        assert await (await waiter.trigger(other.id)).result(5) == 42
        with pytest.raises(Exception, match="cannot wait for itself"):
            await (await narcissus.trigger()).result(5)


@pytest.mark.parity("P5.14")
async def test_a_plain_trigger_in_workflow_code_names_the_verbs(ledger: Ledger) -> None:
    app = family(ledger)
    child = app.workflows["child"]

    @app.workflow
    async def careless(step: Step) -> list[str]:
        problems: list[str] = []
        handle = await step.start_workflow("child", child, 1, detached=True)
        for call in (lambda: child.trigger(1), handle.result, lambda: handle.send_event("x")):
            try:
                await call()
            except WorkflowCodeError as error:
                problems.append(str(error))
        return problems

    async with sandbox(app):
        started, waited, sent = await (await careless.trigger()).result(5)
        assert "step.start_workflow" in started
        assert "step.execute_workflow" in started
        assert "step.wait_for_workflow" in waited
        assert "step.run" in sent


async def test_plain_workflows_and_bodies_have_children_too(ledger: Ledger) -> None:
    app = family(ledger)
    child = app.workflows["child"]

    @app.workflow
    def plain(step: SyncStep) -> list[int]:
        handle = step.start_workflow("start", child, 1)
        return [step.execute_workflow("execute", child, 2), step.wait_for_workflow("wait", handle)]

    @app.workflow
    async def nested(step: Step) -> int:
        async def body() -> int:
            return await current_step().execute_workflow("inner", child, 3)

        return await step.run("outer", body)

    async with sandbox(app) as tester:
        first, second = await plain.trigger(), await nested.trigger()
        await tester.settle()
        await tester.advance("1 minute")
        await tester.advance("1 minute")
        assert [await first.result(5), await second.result(5)] == [[4, 2], 6]
        assert await statuses(second) == {"outer": "completed", "outer/inner": "completed"}


async def test_things_that_are_no_workflow_or_no_execution_are_refused(ledger: Ledger) -> None:
    app, elsewhere = family(ledger), App(database="sqlite://")

    @elsewhere.workflow
    async def foreign(step: Step) -> None: ...

    problems: list[str] = []

    @app.workflow
    async def careless(step: Step) -> None:
        wrong: Any = print
        for call in (
            lambda: step.execute_workflow("a", wrong, 1),
            lambda: step.start_workflow("b", app.workflows["child"], 1, id="not an id"),
            lambda: step.wait_for_workflow("c", wrong),
            lambda: step.start_workflow("d", foreign),
        ):
            try:
                await call()
            except (TypeError, InvalidInputError, WorkflowCodeError) as error:
                problems.append(f"{type(error).__name__}: {error}")

    async with sandbox(app), elsewhere.connected():
        execution = await careless.trigger()
        await execution.result(5)
        assert await execution.steps() == []
    assert [problem.split(":")[0] for problem in problems[:3]] == [
        "TypeError",
        "InvalidInputError",
        "InvalidInputError",
    ]


@pytest.mark.slow
async def test_a_parent_of_thousands_is_replayed_a_few_times_at_most() -> None:
    app, replays = App(), 0

    @app.workflow
    async def child(step: Step, number: int) -> int:
        await step.sleep("nap", "1 minute")
        return number

    @app.workflow
    async def parent(step: Step, count: int) -> int:
        nonlocal replays
        replays += 1
        return sum(await asyncio.gather(*(step.execute_workflow(f"c{i}", child, i) for i in range(count))))

    async with sandbox(app) as tester:
        execution = await parent.trigger(2_000)
        await tester.settle(60)
        await until(lambda: in_memory(tester) == set())
        before = replays
        await tester.advance("1 minute")

        assert await execution.result(30) == sum(range(2_000))
        assert (before, replays - before <= 20) == (1, True)
