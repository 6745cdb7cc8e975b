"""Starting executions: `trigger` and `trigger_many`."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from pydantic import BaseModel

from stepwell import App, ConfigError, ExecutionExistsError, ExecutionFailedError, Step, Workflow
from stepwell.errors import InvalidInputError, SerializationError, WorkflowCodeError
from stepwell.testing import sandbox
from tests.api.conftest import START, Order, open_client

pytestmark = pytest.mark.anyio

NOTHING_STORED = (InvalidInputError, SerializationError)


def untyped(workflow: Workflow[Any, Any]) -> Any:
    """The workflow as callers without a type checker see it."""
    return workflow


async def stored(app: App) -> list[str]:
    return [info.id for info in (await app.list_executions()).executions]


# ------------------------------------------------------------------------------------------------- ids


async def test_generated_ids_are_unique_and_sort_by_time() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with sandbox(app) as tester:
        ids: list[str] = []
        for _ in range(20):
            ids += [(await flow.trigger()).id, (await flow.trigger()).id]
            await tester.advance("1 ms")

    assert ids == sorted(set(ids))
    assert all(re.fullmatch("[0-9a-z]{26}", id) for id in ids)


@pytest.mark.parametrize("id", ["A-1", "a", "x" * 128, "shop:order.7_b-c", "latest", "0"])
async def test_callers_may_give_an_id(id: str) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        return step.execution_id

    async with sandbox(app):
        execution = await flow.trigger(id=id)

        assert execution.id == id
        assert await execution.result() == id


@pytest.mark.parametrize("id", ["", " ", "a b", "ä", "a/b", "a\n", "x" * 129, "\u0663", 5, b"a", ["a"]])
async def test_ids_that_are_none_are_refused_with_their_value(id: Any) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with open_client(app):
        with pytest.raises(InvalidInputError, match="id must be 1 to 128 characters") as refused:
            await flow.trigger(id=id)

        assert ascii(id)[:100] in str(refused.value)
        assert await stored(app) == []


async def test_an_id_that_is_taken_raises() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, number: int) -> int:
        return number

    async with sandbox(app):
        first = await flow.trigger(1, id="A-1")
        with pytest.raises(ExecutionExistsError, match="'A-1' already exists") as running:
            await flow.trigger(1, id="A-1")
        assert await first.result() == 1
        with pytest.raises(ExecutionExistsError):
            await flow.trigger(1, id="A-1")

        assert running.value.execution_id == "A-1"
        assert await stored(app) == ["A-1"]


async def test_if_exists_return_gives_the_execution_with_the_same_workflow_and_input() -> None:
    app, runs = App(), list[Order]()

    @app.workflow
    async def flow(step: Step, order: Order) -> str:
        runs.append(order)
        return order.id

    async with sandbox(app):
        first = await flow.trigger(Order("a", 1), id="A-1", if_exists="return")
        second = await flow.trigger(Order("a", 1), id="A-1", if_exists="return")
        assert await first.result() == "a"
        third = await flow.trigger(Order("a", 1), id="A-1", if_exists="return")

        assert first == second == third
        assert await third.result() == "a"
        assert runs == [Order("a", 1)]


async def test_if_exists_return_raises_when_workflow_or_input_differ() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, number: int) -> int:
        return number

    @app.workflow
    async def other(step: Step, number: int) -> int:
        return number

    async with sandbox(app):
        execution = await flow.trigger(1, id="A-1")
        with pytest.raises(ExecutionExistsError, match="another workflow or input"):
            await flow.trigger(2, id="A-1", if_exists="return")
        with pytest.raises(ExecutionExistsError, match="another workflow or input"):
            await other.trigger(1, id="A-1", if_exists="return")

        assert await execution.result() == 1


async def test_twenty_callers_with_one_id_start_one_execution() -> None:
    app, runs = App(), list[str]()

    @app.workflow
    async def flow(step: Step) -> None:
        runs.append(step.execution_id)

    async with sandbox(app):
        triggers = (flow.trigger(id="A-1", if_exists="return") for _ in range(20))
        handles = await asyncio.gather(*triggers)
        await handles[0].result()

        assert {handle.id for handle in handles} == {"A-1"}
        assert runs == ["A-1"]


async def test_unknown_if_exists_is_refused() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with open_client(app):
        with pytest.raises(InvalidInputError, match="if_exists must be 'raise' or 'return', got 'replace'"):
            await untyped(flow).trigger(if_exists="replace")
        assert await stored(app) == []


# ------------------------------------------------------------------------------------------------- when


async def test_delay_starts_the_execution_later_and_not_before() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        return "done"

    async with sandbox(app) as tester:
        execution = await flow.trigger(delay="10 minutes")
        await tester.advance(599.999)
        waiting = await execution.info()
        await tester.advance(0.001)
        ended = await execution.info()

    assert (waiting.status, waiting.started_at, waiting.wake_at) == ("queued", None, START + timedelta(minutes=10))
    assert (ended.status, ended.created_at, ended.started_at) == ("completed", START, START + timedelta(minutes=10))
    assert ended.wake_at is None


@pytest.mark.parametrize("delay", [-1, "-1 second", "soon", True, math.nan, math.inf, [], timedelta(seconds=-1)])
async def test_bad_delays_are_refused(delay: Any) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with open_client(app):
        with pytest.raises(InvalidInputError, match=r"^delay must "):
            await flow.trigger(delay=delay)
        assert await stored(app) == []


async def test_at_starts_the_execution_at_that_time() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with sandbox(app) as tester:
        execution = await flow.trigger(at=START + timedelta(days=400))
        await tester.advance("399 days")
        assert await execution.status() == "queued"
        await tester.advance("1 day")

        assert (await execution.info()).started_at == START + timedelta(days=400)


async def test_at_in_the_past_starts_at_once() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        return "done"

    async with sandbox(app):
        execution = await flow.trigger(at=datetime(1999, 1, 1, tzinfo=UTC))

        assert await execution.result() == "done"
        assert (await execution.info()).started_at == START


@pytest.mark.parametrize("at", [datetime(2031, 1, 1), "2031-01-01", 5, START.date()])
async def test_at_must_be_an_aware_datetime(at: Any) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with open_client(app):
        with pytest.raises(InvalidInputError, match="aware datetime") as refused:
            await flow.trigger(at=at)
        assert repr(at) in str(refused.value)
        assert await stored(app) == []


async def test_delay_and_at_exclude_each_other() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with open_client(app):
        with pytest.raises(InvalidInputError, match="either delay or at"):
            await flow.trigger(delay=1, at=START)


# ------------------------------------------------------------------------------------------------- order


def queue_of_notes() -> tuple[App, Workflow[str, None], list[str], asyncio.Event]:
    """A workflow that notes its input; the input `block` waits for the event first."""
    app, notes, release = App(), list[str](), asyncio.Event()

    @app.workflow
    async def flow(step: Step, text: str) -> None:
        notes.append(text)
        if text == "block":
            await step.run("wait", release.wait)

    return app, flow, notes, release


async def test_queued_executions_start_by_priority_then_age() -> None:
    app, flow, notes, release = queue_of_notes()

    async with sandbox(app, concurrency=1) as tester:
        await flow.trigger("block")
        for text, priority in [("low", -5), ("first", 0), ("second", 0), ("high", 100)]:
            await flow.trigger(text, priority=priority)
        assert notes == ["block"]
        release.set()
        await tester.settle()

    assert notes == ["block", "high", "first", "second", "low"]


async def test_more_executions_than_places_are_queued_and_all_run() -> None:
    app, flow, notes, release = queue_of_notes()

    async with sandbox(app, concurrency=2) as tester:
        blocked = [await flow.trigger("block") for _ in range(2)]
        others = [await flow.trigger(str(number)) for number in range(20)]
        assert {await other.status() for other in others} == {"queued"}
        assert [await one.status() for one in blocked] == ["running", "running"]
        release.set()
        await tester.settle()

        assert {await other.status() for other in others} == {"completed"}
        assert sorted(notes[2:], key=int) == [str(number) for number in range(20)]


@pytest.mark.parametrize("priority", [2**31, -(2**31) - 1, True, 1.5, "high", None])
async def test_bad_priorities_are_refused(priority: Any) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with open_client(app):
        with pytest.raises(
            InvalidInputError, match=re.escape(f"priority must be a whole number of 32 bits, got {priority!r}")
        ):
            await flow.trigger(priority=priority)
        assert await stored(app) == []


# ------------------------------------------------------------------------------------------------- tags, timeout


async def test_tags_of_workflow_and_trigger_are_kept() -> None:
    app = App()

    @app.workflow(tags=["shop"])
    async def flow(step: Step) -> None: ...

    async with open_client(app):
        execution = await flow.trigger(tags=["vip", "eu"])
        again = await flow.trigger(tags=["shop", "eu", "eu"])

        assert set((await execution.info()).tags) == {"shop", "vip", "eu"}
        assert sorted((await again.info()).tags) == ["eu", "shop"]


@pytest.mark.parametrize("tags", ["vip", [""], ["x" * 129], [5], [None], ["\ud800"], ["a\u0000"]])
async def test_bad_tags_are_refused(tags: Any) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with open_client(app):
        with pytest.raises(NOTHING_STORED):
            await flow.trigger(tags=tags)
        assert await stored(app) == []


async def test_bad_tags_of_a_workflow_are_refused_at_definition() -> None:
    app = App()

    with pytest.raises(InvalidInputError, match="tags must be a list of texts, got 'vip'"):

        @app.workflow(tags="vip")
        async def flow(step: Step) -> None: ...


async def test_timeout_of_a_trigger_overrides_the_workflow_s() -> None:
    app = App()

    @app.workflow(timeout="1 minute")
    async def flow(step: Step) -> None:
        await step.sleep("nap", "1 hour")

    async with sandbox(app) as tester:
        own, longer = await flow.trigger(), await flow.trigger(timeout="2 hours")
        await tester.advance("2 minutes")
        with pytest.raises(ExecutionFailedError, match="did not end within its timeout of 60 s") as failed:
            await own.result()
        await tester.advance("1 hour")

        assert failed.value.error_type.endswith("ExecutionTimeoutError")
        assert await longer.status() == "completed"


@pytest.mark.parametrize("timeout", [0, -1, "never", True])
async def test_bad_timeouts_are_refused(timeout: Any) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with open_client(app):
        with pytest.raises(InvalidInputError, match=r"^timeout must "):
            await flow.trigger(timeout=timeout)
        assert await stored(app) == []


# ------------------------------------------------------------------------------------------------- input


async def test_a_workflow_without_input_takes_none() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with open_client(app):
        await flow.trigger()
        await flow.trigger(None)
        with pytest.raises(InvalidInputError, match="Workflow 'flow' takes no input, got 5"):
            await untyped(flow).trigger(5)
        assert len(await stored(app)) == 2


async def test_a_workflow_with_input_needs_one() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, order: Order) -> None: ...

    async with open_client(app):
        with pytest.raises(InvalidInputError):
            await untyped(flow).trigger()
        assert await stored(app) == []


async def test_a_dictionary_stands_for_a_dataclass() -> None:
    app, seen = App(), list[object]()

    @app.workflow
    async def flow(step: Step, order: Order) -> Order:
        seen.append(order)
        return order

    async with sandbox(app):
        execution = await untyped(flow).trigger({"id": "a", "total": 5})

        assert await execution.result() == Order("a", 5)
        assert seen == [Order("a", 5)]


class Customer(BaseModel):
    name: str
    age: int


async def test_pydantic_models_are_inputs_and_outputs() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, customer: Customer) -> Customer:
        return customer.model_copy(update={"age": customer.age + 1})

    async with sandbox(app):
        assert await (await flow.trigger(Customer(name="a", age=1))).result() == Customer(name="a", age=2)
        assert await (await untyped(flow).trigger({"name": "b", "age": 2})).result() == Customer(name="b", age=3)
        with pytest.raises(InvalidInputError, match="age"):
            await untyped(flow).trigger({"name": "b", "age": "old"})
        assert len(await stored(app)) == 2


@pytest.mark.parametrize(
    ("input", "named"),
    [
        ({"id": "a", "total": "5"}, "total"),
        ({"id": "a"}, "total"),
        ({"id": None, "total": 5}, "id"),
        ({"id": "a", "total": 1.5}, "total"),
        ([], "array"),
        ("a", "str"),
        (5, "int"),
        (Customer(name="a", age=1), "id"),
    ],
)
async def test_an_input_of_the_wrong_type_is_refused_before_anything_is_written(input: object, named: str) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, order: Order) -> None: ...

    async with open_client(app):
        with pytest.raises(InvalidInputError, match=named):
            await untyped(flow).trigger(input)

        assert await stored(app) == []


async def test_the_message_names_the_place_inside_the_input() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, orders: dict[str, list[Order]]) -> None: ...

    async with open_client(app):
        with pytest.raises(InvalidInputError, match=r"total") as refused:
            await untyped(flow).trigger({"monday": [{"id": "a", "total": 1}, {"id": "b", "total": "x"}]})
        assert "[...][1].total" in str(refused.value) or "['monday'][1].total" in str(refused.value)


@pytest.mark.parametrize(
    "input",
    [math.nan, math.inf, -math.inf, "a\u0000b", "\ud800", {"k": ["\udfff"]}, {"\u0000": 1}, object(), {1, object()}],
)
async def test_values_that_no_store_can_keep_are_refused(input: Any) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, value: Any) -> None: ...

    async with open_client(app):
        with pytest.raises(InvalidInputError):
            await flow.trigger(input)
        assert await stored(app) == []


async def test_an_input_over_the_payload_limit_is_refused_with_both_sizes() -> None:
    app = App(payload_limit="1 KiB")

    @app.workflow
    async def flow(step: Step, text: str) -> None: ...

    async with open_client(app):
        await flow.trigger("x" * 1022)
        with pytest.raises(InvalidInputError, match="'flow' takes 1,025 bytes as JSON; at most 1,024 are allowed"):
            await flow.trigger("x" * 1023)
        with pytest.raises(InvalidInputError, match="at most 1,024"):
            await flow.trigger("ä" * 512)
        assert len(await stored(app)) == 1


async def test_the_input_is_a_snapshot() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, items: list[int]) -> list[int]:
        items.append(3)
        return items

    async with sandbox(app):
        items = [1, 2]
        execution = await flow.trigger(items)
        items.clear()

        assert await execution.result() == [1, 2, 3]
        assert (await execution.info()).input == [1, 2]
        assert items == []


# ------------------------------------------------------------------------------------------------- many


async def test_trigger_many_starts_one_for_each_input_in_order() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, number: int) -> int:
        return number * 2

    async with sandbox(app):
        executions = await flow.trigger_many(range(200), tags=["batch"])
        ids = [execution.id for execution in executions]

        assert ids == sorted(set(ids))
        assert [await execution.result() for execution in executions] == [number * 2 for number in range(200)]
        assert len((await flow.list_executions(tags=["batch"], limit=1000)).executions) == 200


async def test_trigger_many_with_own_ids() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, number: int) -> None: ...

    async with open_client(app):
        executions = await flow.trigger_many([1, 2], ids=["a", "b"], delay="1 hour", priority=3)

        infos = [await execution.info() for execution in executions]
        assert [(info.id, info.input, info.priority) for info in infos] == [("a", 1, 3), ("b", 2, 3)]
        assert all(info.wake_at == info.created_at + timedelta(hours=1) for info in infos)


async def test_trigger_many_of_nothing_does_nothing() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, number: int) -> None: ...

    async with open_client(app):
        assert await flow.trigger_many([]) == []


async def test_trigger_many_says_which_input_is_wrong_and_starts_none() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, number: int) -> None: ...

    async with open_client(app):
        with pytest.raises(InvalidInputError, match=r"inputs\[2\]"):
            await flow.trigger_many(cast("list[int]", [0, 1, "two", 3]))
        assert await stored(app) == []


async def test_trigger_many_starts_none_when_one_id_is_taken() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, number: int) -> None: ...

    async with open_client(app):
        await flow.trigger(0, id="b")
        with pytest.raises(ExecutionExistsError, match="'b'") as exists:
            await flow.trigger_many([1, 2, 3], ids=["a", "b", "c"])

        assert exists.value.execution_id == "b"
        assert await stored(app) == ["b"]


@pytest.mark.parametrize("ids", [["a"], ["a", "b", "c"], ["a", "a"], ["a", "b c"], ["a", 5]])
async def test_trigger_many_needs_one_good_id_for_each_input(ids: Any) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, number: int) -> None: ...

    async with open_client(app):
        with pytest.raises(InvalidInputError, match="id"):
            await flow.trigger_many([1, 2], ids=ids)
        assert await stored(app) == []


async def test_trigger_many_takes_10_000_inputs_and_not_one_more() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with open_client(app):
        with pytest.raises(InvalidInputError, match="at most 10,000 inputs, got 10,001"):
            await flow.trigger_many([None] * 10_001)
        assert await stored(app) == []
        executions = await flow.trigger_many([None] * 10_000)
        assert len({execution.id for execution in executions}) == 10_000


# ------------------------------------------------------------------------------------------------- from inside


async def test_a_trigger_in_a_body_takes_an_id_made_from_the_step() -> None:
    app, attempts = App(), list[str]()

    @app.workflow
    async def other(step: Step) -> str:
        return "other"

    async def start() -> list[str]:
        ids = [(await other.trigger()).id, (await other.trigger()).id]
        attempts.append(",".join(ids))
        if len(attempts) < 3:
            raise ValueError("again")
        return ids

    @app.workflow
    async def flow(step: Step) -> list[str]:
        return await step.run("start", start)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.advance("1 minute")
        ids = await execution.result()

        assert len(attempts) == 3
        assert set(attempts) == {",".join(ids)}
        assert all(re.fullmatch("t-[a-z2-7]{26}", id) for id in ids)
        assert {info.id for info in (await other.list_executions()).executions} == set(ids)
        assert [await other.get_execution(id).result() for id in ids] == ["other", "other"]


async def test_triggers_in_different_steps_take_different_ids() -> None:
    app = App()

    @app.workflow
    async def other(step: Step) -> None: ...

    async def start() -> str:
        return (await other.trigger()).id

    @app.workflow
    async def flow(step: Step) -> list[str]:
        return [await step.run("a", start), await step.run("b", start)]

    async with sandbox(app):
        first, second = await flow.trigger(), await flow.trigger()
        assert len({*await first.result(), *await second.result()}) == 4


async def test_an_execution_that_a_body_triggers_does_not_inherit_its_scope() -> None:
    app = App()

    @app.workflow
    async def other(step: Step) -> list[str]:
        return [step.path, await step.run("inner", lambda: "ran")]

    async def start() -> str:
        return (await other.trigger()).id

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("outer", start)

    async with sandbox(app):
        started = other.get_execution(await (await flow.trigger()).result())
        assert await started.result() == ["", "ran"]
        assert [step.path for step in await started.steps()] == ["inner"]


@pytest.mark.parametrize("call", ["trigger", "trigger_many", "cancel", "execution.cancel", "result"])
async def test_workflow_code_must_not_act_outside_of_steps(call: str) -> None:
    app = App()

    @app.workflow
    async def other(step: Step) -> None: ...

    calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "trigger": other.trigger,
        "trigger_many": lambda: other.trigger_many([None]),
        "cancel": lambda: other.cancel("A-1"),
        "execution.cancel": lambda: other.get_execution("A-1").cancel(),
        "result": lambda: other.get_execution("A-1").result(),
    }

    @app.workflow
    async def flow(step: Step) -> str:
        try:
            await calls[call]()
        except WorkflowCodeError as error:
            return str(error)
        return "nothing was raised"

    async with sandbox(app):
        await other.trigger(id="A-1", delay="1 day")
        execution = await flow.trigger()
        async with asyncio.timeout(5):
            message = await execution.result()

        assert call.rpartition(".")[2] in message
        assert "step." in message
        assert len(await stored(app)) == 2
        assert await other.get_execution("A-1").status() == "queued"


# ------------------------------------------------------------------------------------------------- the caller


@pytest.mark.guarantee("G1")
async def test_an_execution_runs_although_its_caller_was_cancelled_while_triggering() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("work", lambda: "done")

    async with sandbox(app) as tester:
        await tester.settle()
        for number in range(10):
            caller = asyncio.create_task(flow.trigger(id=f"A-{number}"))
            await asyncio.sleep(0)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
        await tester.settle()

        assert [await flow.get_execution(f"A-{number}").status() for number in range(10)] == ["completed"] * 10


async def test_a_queued_execution_starts_at_once_although_its_caller_was_cancelled() -> None:
    app, runs = App(), list[int]()

    @app.workflow
    async def flow(step: Step, number: int) -> None:
        runs.append(number)

    async with sandbox(app) as tester:
        # Until the worker has looked at the queue for the first time, nothing is started directly.
        caller = asyncio.create_task(flow.trigger(1))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller])
        await tester.settle()

        assert runs == [1]


async def test_triggering_needs_an_open_app() -> None:
    app = App("shop")

    @app.workflow
    async def flow(step: Step) -> None: ...

    with pytest.raises(ConfigError, match=r"App 'shop' is not open. Use `async with app.running"):
        await flow.trigger()
