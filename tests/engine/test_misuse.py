"""Calls from the wrong place or with bad values are refused by an error that names them; nothing is half-written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from stepwell import App, Execution, Step, SyncStep, Workflow
from stepwell.errors import ConfigError, ExecutionExistsError, InvalidInputError, NoStepContextError, WorkflowCodeError
from stepwell.testing import sandbox
from tests.engine.conftest import Ledger, until

pytestmark = pytest.mark.anyio


@dataclass
class Order:
    id: str
    amount: int


# Client calls in workflow code

CLIENT_CALLS: dict[str, Callable[[Workflow[None, str], Execution[str]], Awaitable[object]]] = {
    "trigger": lambda workflow, _: workflow.trigger(),
    "trigger_many": lambda workflow, _: workflow.trigger_many([None]),
    "cancel": lambda _, execution: execution.cancel(),
    "cancel by id": lambda workflow, execution: workflow.cancel(execution.id),
    "result": lambda _, execution: execution.result(),
}


@pytest.mark.parametrize("call", CLIENT_CALLS.values(), ids=CLIENT_CALLS)
async def test_client_call_in_workflow_code_is_refused_and_names_the_step(
    call: Callable[[Workflow[None, str], Execution[str]], Awaitable[object]],
) -> None:
    app = App()

    @app.workflow
    async def other(step: Step) -> str:
        await step.sleep("nap", "1 hour")
        return "other"

    @app.workflow
    async def workflow(step: Step, id: str) -> str:
        try:
            await call(other, other.get_execution(id))
        except WorkflowCodeError as error:
            return str(error)
        return "taken"

    async with sandbox(app) as t:
        first = await other.trigger()
        execution = await workflow.trigger(first.id)
        await t.settle()

        assert "step." in await execution.result(2)
        assert await first.status() == "sleeping"
        assert len((await other.list_executions()).executions) == 1


@pytest.mark.parity("P5.14")
@pytest.mark.parametrize("where", ["task", "within", "on_error"])
async def test_trigger_is_refused_wherever_workflow_code_runs(where: str, ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def other(step: Step) -> None: ...

    async def trigger() -> None:
        try:
            await other.trigger()
        except WorkflowCodeError:
            ledger.append("refused")

    @app.workflow
    async def workflow(step: Step) -> None:
        match where:
            case "task":
                await asyncio.create_task(trigger())
            case "within":
                await step.within("limit", "1 hour", trigger())
            case _:
                raise RuntimeError("of the user")

    @workflow.on_error
    async def clean_up(step: Step, error: BaseException) -> None:
        await trigger()

    async with sandbox(app) as t:
        await workflow.trigger()
        await t.settle()
        assert (await other.list_executions()).executions == []

    assert ledger == ["refused"]


async def test_sync_client_calls_in_a_sync_workflow_are_refused() -> None:
    app = App()

    @app.workflow
    async def other(step: Step) -> None: ...

    @app.workflow
    def workflow(step: SyncStep) -> list[str]:
        calls: list[Callable[[], object]] = [
            other.trigger_sync,
            lambda: other.cancel_sync(step.execution_id),
            lambda: app.get_execution(step.execution_id).result_sync(),
        ]
        refused: list[str] = []
        for call in calls:
            try:
                call()
            except WorkflowCodeError as error:
                refused.append(str(error))
        return refused

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        refused = await execution.result(2)
        assert len(refused) == 3
        assert all("step." in message for message in refused)
        await t.settle()
        assert (await other.list_executions()).executions == []


async def test_reading_a_handle_in_workflow_code_is_fine() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        return await app.get_execution(step.execution_id).status()

    async with sandbox(app):
        assert await (await workflow.trigger()).result(5) == "running"


# Triggering inside a body


async def test_trigger_in_a_body_has_an_id_of_its_own_kind() -> None:
    app = App()

    @app.workflow
    async def other(step: Step, text: str) -> str:
        return text

    @app.workflow
    async def workflow(step: Step) -> list[str]:
        async def start() -> list[str]:
            return [(await other.trigger("a")).id, (await other.trigger("b")).id]

        return await step.run("start", start)

    async with sandbox(app) as t:
        ids = await (await workflow.trigger()).result(5)
        await t.settle()
        outputs = [await other.get_execution(id).result(5) for id in ids]

    assert outputs == ["a", "b"]
    assert all(id.startswith("t-") and len(id) == 28 for id in ids)


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("again", ["retry", "crash"])
async def test_body_that_runs_again_does_not_start_a_second_execution(again: str, ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def other(step: Step) -> str:
        return await step.run("note", ledger.note, "other")

    @app.workflow
    async def workflow(step: Step) -> str:
        async def start() -> str:
            execution = await other.trigger()
            ledger.append("triggered")
            if ledger.count("triggered") == 1:
                if again == "retry":
                    raise RuntimeError("once")
                await asyncio.Event().wait()
            return execution.id

        return await step.run("start", start)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: "triggered" in ledger and "other" in ledger)
        [started] = (await other.list_executions()).executions
        await other.get_execution(started.id).result(5)
        if again == "crash":
            await t.crash()
        await t.advance("1 minute")

        id = await execution.result(5)
        assert [other.id for other in (await other.list_executions()).executions] == [id]

    assert sorted(ledger) == ["other", "triggered", "triggered"]


async def test_execution_triggered_in_a_body_does_not_inherit_its_scope() -> None:
    app = App()

    @app.workflow
    async def other(step: Step) -> str:
        await step.run("body", asyncio.sleep, 0)
        return f"path {step.path!r}"

    @app.workflow
    async def workflow(step: Step) -> str:
        async def start() -> str:
            return (await other.trigger()).id

        return await step.run("start", start)

    async with sandbox(app) as t:
        id = await (await workflow.trigger()).result(5)
        assert await other.get_execution(id).result(5) == "path ''"
        await t.settle()
        assert [step.path for step in await other.get_execution(id).steps()] == ["body"]


async def test_sync_body_triggers_with_the_sync_twin() -> None:
    app = App()

    @app.workflow
    async def other(step: Step, number: int) -> int:
        return number

    def start() -> int:
        execution = other.trigger_sync(5)
        assert execution.id.startswith("t-")
        return execution.result_sync(5)

    @app.workflow
    async def workflow(step: Step) -> int:
        return await step.run("start", start)

    async with sandbox(app):
        assert await (await workflow.trigger()).result(5) == 5


# Steps in the wrong place


async def test_step_of_another_execution_is_refused(ledger: Ledger) -> None:
    app, steps = App(), list[Step]()

    @app.workflow
    async def lender(step: Step) -> None:
        steps.append(step)
        await step.sleep("nap", 3)

    @app.workflow
    async def borrower(step: Step) -> str:
        try:
            await steps[0].run("note", ledger.note, "note")
        except WorkflowCodeError as error:
            return str(error)
        return "taken"

    async with sandbox(app) as t:
        lent = await lender.trigger()
        await t.settle()
        borrowed = await borrower.trigger()

        message = await borrowed.result(5)
        assert lent.id in message
        assert borrowed.id in message
        await t.advance(3)
        assert await lent.result(5) is None

    assert ledger == []


async def test_step_outside_a_workflow_is_refused() -> None:
    app, steps = App(), list[Step]()

    @app.workflow
    async def workflow(step: Step) -> None:
        steps.append(step)
        await step.sleep("nap", 3)

    async with sandbox(app) as t:
        await workflow.trigger()
        await t.settle()
        with pytest.raises(NoStepContextError, match=r"step\.run .* outside a running workflow"):
            await steps[0].run("note", asyncio.sleep, 0)
        with pytest.raises(NoStepContextError, match=r"step\.sleep .* outside a running workflow"):
            await steps[0].sleep("nap", 1)


async def test_step_after_the_workflow_has_returned_is_refused() -> None:
    app, may_call, messages = App(), threading.Event(), list[str]()

    @app.workflow
    def workflow(step: SyncStep) -> None:
        def late() -> None:
            may_call.wait(10)
            try:
                step.run("late", threading.get_ident)
            except WorkflowCodeError as error:
                messages.append(str(error))

        threading.Thread(target=step.carry(late), daemon=True).start()

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await execution.result(5)
        await t.settle()
        may_call.set()
        await until(lambda: messages)
        assert await execution.steps() == []

    assert "step.run" in messages[0]
    assert "ended" in messages[0]


async def test_step_after_its_body_has_returned_is_refused() -> None:
    app, returned, messages = App(), asyncio.Event(), list[str]()

    @app.workflow
    async def workflow(step: Step) -> None:
        tasks: list[asyncio.Task[None]] = []

        async def late() -> None:
            await returned.wait()
            try:
                await step.run("late", asyncio.sleep, 0)
            except WorkflowCodeError as error:
                messages.append(str(error))

        async def body() -> None:
            tasks.append(asyncio.create_task(late()))

        await step.run("body", body)
        returned.set()
        await asyncio.wait(tasks)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await execution.result(5)
        await t.settle()
        assert [step.path for step in await execution.steps()] == ["body"]

    assert "step.run" in messages[0]
    assert "'body'" in messages[0]


@pytest.mark.parametrize("name", ["", "a" * 201, "a\nb", "\x00", "\ud800", 5, None])
async def test_bad_step_names_are_refused(name: object) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        try:
            await step.run(cast("str", name), asyncio.sleep, 0)
        except ValueError as error:
            return str(error)
        return "taken"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        assert "step name" in await execution.result(5)
        await t.settle()
        assert await execution.steps() == []


async def test_step_without_a_function_is_refused() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> list[str]:
        refused: list[str] = []
        for call in (lambda: step.run("body", cast("Any", 5)), lambda: step.do("body", cast("Any", print))):
            try:
                await cast("Any", call())
            except TypeError as error:
                refused.append(str(error))
        return refused

    async with sandbox(app):
        run, do = await (await workflow.trigger()).result(5)
        assert "step.run" in run
        assert "step.run" in do


# The app


async def test_app_that_is_not_open_is_named() -> None:
    app = App("shop")

    @app.workflow
    async def workflow(step: Step) -> None: ...

    with pytest.raises(ConfigError, match="'shop' is not open"):
        await workflow.trigger()
    with pytest.raises(ConfigError, match="'shop' is not open"):
        workflow.get_execution("x")


async def test_app_is_opened_once() -> None:
    app = App("shop", database="sqlite://")

    async with app.running():
        with pytest.raises(ConfigError, match="open already"):
            async with app.running():
                pass
        with pytest.raises(ConfigError, match="open already"):
            async with app.connected():
                pass
    async with app.connected():
        pass


async def test_execute_inside_an_event_loop_is_refused() -> None:
    app = App(database="sqlite://")

    @app.workflow
    async def workflow(step: Step) -> None: ...

    with pytest.raises(WorkflowCodeError, match="event loop"):
        app.execute(workflow)


def test_execute_gives_the_output_or_raises() -> None:
    app = App(database="sqlite://")

    @app.workflow
    async def workflow(step: Step, order: Order) -> int:
        if order.amount < 0:
            raise RuntimeError("of the user")
        return order.amount

    assert app.execute(workflow, Order("o", 5)) == 5
    with pytest.raises(Exception, match="of the user"):
        app.execute(workflow, Order("o", -1))


# Triggers


def taking_orders() -> tuple[App, Workflow[Order, str]]:
    app = App()

    @app.workflow
    async def workflow(step: Step, order: Order) -> str:
        return order.id

    return app, workflow


async def nothing_was_written(app: App) -> bool:
    return (await app.list_executions()).executions == []


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize("input", [None, "text", 5, {"id": "o"}, {"id": "o", "amount": "many"}, [1]])
async def test_input_that_does_not_fit_is_refused(input: object) -> None:
    app, workflow = taking_orders()

    async with sandbox(app):
        with pytest.raises(InvalidInputError):
            await workflow.trigger(cast("Order", input))
        with pytest.raises(InvalidInputError, match=r"inputs\[1\]"):
            await workflow.trigger_many([Order("o", 1), cast("Order", input)])
        assert await nothing_was_written(app)


@pytest.mark.guarantee("G10")
async def test_trigger_without_the_input_it_needs_is_refused() -> None:
    app, workflow = taking_orders()

    async with sandbox(app):
        with pytest.raises(InvalidInputError):
            await cast("Any", workflow).trigger()
        assert await nothing_was_written(app)


@pytest.mark.guarantee("G10")
async def test_input_for_a_workflow_without_input_is_refused() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None: ...

    async with sandbox(app):
        with pytest.raises(InvalidInputError, match="takes no input"):
            await cast("Any", workflow).trigger(5)
        assert await nothing_was_written(app)


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize("id", ["", "a" * 129, "a b", "a/b", "ü", "a\n", "../a", "a#b", 5, b"a", True])
async def test_bad_ids_are_refused(id: object) -> None:
    app, workflow = taking_orders()
    bad = cast("str", id)

    async with sandbox(app):
        with pytest.raises(InvalidInputError, match="id must be 1 to 128"):
            await workflow.trigger(Order("o", 1), id=bad)
        with pytest.raises(InvalidInputError, match="id must be 1 to 128"):
            await workflow.trigger_many([Order("o", 1)], ids=[bad])
        with pytest.raises(InvalidInputError, match="id must be 1 to 128"):
            workflow.get_execution(bad)
        assert await nothing_was_written(app)


@pytest.mark.parametrize("id", ["a", "a" * 128, "Order_17.b:c-d", "-", "latest"])
async def test_good_ids_are_kept(id: str) -> None:
    app, workflow = taking_orders()

    async with sandbox(app):
        execution = await workflow.trigger(Order("o", 1), id=id)
        assert (execution.id, await execution.result(5)) == (id, "o")


BAD_OPTIONS: list[dict[str, object]] = [
    {"if_exists": "replace"},
    {"if_exists": None},
    {"priority": True},
    {"priority": 1.5},
    {"priority": "high"},
    {"priority": 2**31},
    {"priority": -(2**31) - 1},
    {"delay": "1 hour", "at": datetime(2031, 1, 1, tzinfo=UTC)},
    {"delay": -1},
    {"delay": "soon"},
    {"delay": timedelta.max},
    {"at": datetime(2031, 1, 1)},
    {"at": "tomorrow"},
    {"tags": "red"},
    {"tags": [""]},
    {"tags": ["a" * 129]},
    {"tags": [5]},
    {"tags": ["\ud800"]},
    {"timeout": 0},
    {"timeout": -1},
    {"timeout": "soon"},
]


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
async def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    app, workflow = taking_orders()

    async with sandbox(app):
        with pytest.raises(ValueError):  # noqa: PT011 - each has a text of its own
            await workflow.trigger(Order("o", 1), **options)
        assert await nothing_was_written(app)
        assert await (await workflow.trigger(Order("next", 1))).result(5) == "next"


async def test_taken_id_is_refused_or_given_back() -> None:
    app, workflow = taking_orders()

    async with sandbox(app):
        first = await workflow.trigger(Order("o", 1), id="order")
        with pytest.raises(ExecutionExistsError, match="'order'"):
            await workflow.trigger(Order("o", 1), id="order")
        with pytest.raises(ExecutionExistsError, match="another workflow or input"):
            await workflow.trigger(Order("o", 2), id="order", if_exists="return")
        assert await workflow.trigger(Order("o", 1), id="order", if_exists="return") == first


@pytest.mark.guarantee("G10")
async def test_trigger_many_writes_all_or_none() -> None:
    app, workflow = taking_orders()
    orders = [Order("o", n) for n in range(3)]

    async with sandbox(app) as t:
        await workflow.trigger(orders[0], id="b")
        await t.settle()
        with pytest.raises(ExecutionExistsError, match="'b'"):
            await workflow.trigger_many(orders, ids=["a", "b", "c"])
        with pytest.raises(InvalidInputError, match="one id of its own"):
            await workflow.trigger_many(orders, ids=["a", "b"])
        with pytest.raises(InvalidInputError, match="one id of its own"):
            await workflow.trigger_many(orders, ids=["a", "a", "c"])
        with pytest.raises(InvalidInputError, match="10,000"):
            await workflow.trigger_many([orders[0]] * 10_001)

        for no_list in cast("list[Any]", [3, "ab", None, iter(orders), {"a": orders[0]}]):
            with pytest.raises(InvalidInputError, match="needs a list of inputs"):
                await workflow.trigger_many(no_list)

        assert [execution.id for execution in (await app.list_executions()).executions] == ["b"]


EVENT_NAMES: list[Any] = ["", "x" * 201, "a\n", 3]


@pytest.mark.parametrize("name", EVENT_NAMES)
async def test_bad_event_names_are_refused_as_such(name: Any) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        try:
            await step.listen("wait", event=name)
        except InvalidInputError as error:
            return str(error)
        return "heard"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        assert (await execution.result()).startswith("An event name must ")
        with pytest.raises(InvalidInputError, match="An event name must "):
            await execution.send_event(name)


MILESTONES: list[Any] = [("half", "50 %"), ("half", 2), ("half", float("nan")), ("x" * 2_001, 0.5), ("", 0.5), (3, 0.5)]


@pytest.mark.parametrize(("message", "fraction"), MILESTONES)
async def test_bad_milestones_are_refused(message: Any, fraction: Any) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        try:
            await step.progress(message, fraction=fraction)
        except InvalidInputError as error:
            return str(error)
        return "taken"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        assert " must be " in await execution.result()
        assert await execution.steps() == []


NO_TYPES: list[Any] = [3, "Order", [Order], {"id": str}, Order("o", 1), lambda: Order]


@pytest.mark.parametrize("returns", NO_TYPES, ids=lambda value: type(value).__name__)
async def test_returns_that_is_no_type_is_refused(returns: Any, ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> list[str]:
        refused: list[str] = []
        for call in (
            lambda: step.run("run", ledger.note, "run", returns=returns),
            lambda: step.map("map", ["map"], ledger.note, returns=returns),
            lambda: step.listen("listen", returns=returns),
        ):
            try:
                await call()
            except InvalidInputError as error:
                refused.append(str(error))
        return refused

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        assert [text[:25] for text in await execution.result(1)] == ["returns must be a type su"] * 3
        assert (ledger, await execution.steps()) == ([], [])


async def test_step_in_another_event_loop_is_refused(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        try:
            await asyncio.to_thread(lambda: asyncio.run(step.run("note", ledger.note, "note")))
        except WorkflowCodeError as error:
            return str(error)
        return "taken"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        assert (await execution.result(1)).startswith("Step 'note' was called in another event loop")
        assert (ledger, await execution.steps()) == ([], [])


async def test_generators_are_no_workflows() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None: ...

    def plain(step: SyncStep) -> Any:
        yield 1

    async def handler(step: Step, error: BaseException) -> Any:
        yield 1

    with pytest.raises(InvalidInputError, match="'plain' yields"):
        app.workflow(cast("Any", plain))
    with pytest.raises(InvalidInputError, match=r"'workflow.on_error' yields"):
        workflow.on_error(cast("Any", handler))
    with pytest.raises(InvalidInputError, match=r"'workflow.on_error' must be a function, got 3"):
        workflow.on_error(cast("Any", 3))
    assert list(app.workflows) == ["workflow"]
