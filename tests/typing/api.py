"""Checked by pyright, never run: types carry through the whole API.

A line with a `pyright: ignore` proves that the mistake on it is found: an ignore that is not needed is an error itself.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, assert_type
from uuid import UUID

from stepwell import (
    App,
    Execution,
    ExecutionInfo,
    ExecutionList,
    RetryPolicy,
    RunInfo,
    Status,
    Step,
    StepInfo,
    StreamItem,
    SyncStep,
    Workflow,
    current_step,
)


@dataclass
class Order:
    id: str
    total: int


@dataclass
class Payment:
    id: str


@dataclass
class Receipt:
    order: str
    payment: str


class Row(TypedDict):
    id: str


@dataclass
class Resources:
    db: str


app = App("typed", retries=5, strict_names=True)


@app.resource
async def db() -> AsyncGenerator[str]:
    yield "connection"


async def charge(order: Order) -> Payment:
    return Payment(order.id)


async def sum_up(numbers: list[int]) -> int:
    return sum(numbers)


def ship(payment_id: str, express: bool) -> int:
    return len(payment_id) + express


def keep(connection: sqlite3.Connection, payment: Payment) -> int:
    return connection.execute("INSERT INTO payments VALUES (?)", (payment.id,)).rowcount


def untyped_row(connection, value):  # pyright: ignore[reportMissingParameterType, reportUnknownParameterType]
    return {"value": value}  # pyright: ignore[reportUnknownVariableType]


def untyped(value):  # pyright: ignore[reportMissingParameterType, reportUnknownParameterType]
    return value  # pyright: ignore[reportUnknownVariableType]


async def forget_row(row: Row) -> None: ...


def give_up(step: Step | SyncStep) -> int:
    if step.attempt > 1:
        step.fail("no")
    step.abort()


@app.workflow(retries=3, timeout="1 hour", tags=["orders"], retention=None)
async def order_processing(step: Step, order: Order) -> Receipt:
    payment = await step.run("charge", charge, order, retries=10, timeout="30 seconds")
    assert_type(payment, Payment)
    assert_type(await step.run("ship", ship, payment.id, True), int)
    assert_type(await step.run("later", functools.partial(ship, express=False), payment.id), int)
    assert_type(await step.run("far", charge, order, executor="process"), Payment)
    assert_type(await step.run("pool", ship, payment.id, True, executor=ThreadPoolExecutor()), int)
    await step.run("gpu", charge, order, executor="gpu")  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert_type(await step.run("row", untyped, 1, returns=Row), Row)  # pyright: ignore[reportUnknownArgumentType]
    assert_type(await step.run("undone", charge, order, undo=lambda payment: payment.id), Payment)
    assert_type(await step.run("row-undone", untyped, 1, returns=Row, undo=forget_row), Row)  # pyright: ignore[reportUnknownArgumentType]
    await step.run("wrong-undo", charge, order, undo=forget_row)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await step.run("charge", charge, 5)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await step.run("ship", ship, payment.id)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await step.sleep("nap", "30 seconds")
    await step.sleep(timedelta(seconds=3))
    await step.sleep_until("morning", datetime.now(UTC))
    assert_type(await step.transaction("keep", keep, payment), int)
    assert_type(await step.transaction("keep", keep, payment, retries=0, timeout=2), int)
    assert_type(await step.transaction("row", untyped_row, 1, returns=Row), Row)  # pyright: ignore[reportUnknownArgumentType]
    await step.transaction("keep", keep, 5)  # pyright: ignore[reportArgumentType]
    assert_type(await step.within("soon", 10, step.run("charge-again", charge, order)), Payment)
    assert_type(await step.now("now"), datetime)
    assert_type(step.uuid("id"), UUID)
    assert_type(step.random("dice"), float)
    assert_type(step.idempotency_key, str)
    assert_type(current_step().attempt, int)
    await step.progress("half", fraction=0.5)
    assert_type(await step.map("payments", [order], charge, concurrency=5, retries=2, timeout="1 min"), list[Payment])
    assert_type(await step.map("sizes", ("a", "b"), len), list[int])
    assert_type(await step.map("tolerant", [order], charge, failures="collect"), list[Payment | BaseException])
    assert_type(await step.map("rows", [1], untyped, returns=Row), list[Row])  # pyright: ignore[reportUnknownArgumentType]
    assert_type(
        await step.map("rows", [1], untyped, returns=Row, failures="collect"),  # pyright: ignore[reportUnknownArgumentType]
        list[Row | BaseException],
    )
    assert_type(await step.batch("parts", (n for n in range(9)), sum_up, batch_size=4), list[int])
    assert_type(await step.batch("parts", [1], sum_up, failures="collect"), list[int | BaseException])
    await step.for_each("each", [order], charge, executor="thread")
    await step.map("wrong", [1], charge)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await step.map("wrong", [order], charge, failures="drop")  # pyright: ignore[reportCallIssue, reportArgumentType]
    await step.batch("wrong", ["a"], sum_up)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await step.for_each("wrong", [order], charge, batch_size=1)  # pyright: ignore[reportCallIssue]
    await step.emit("tokens", {"text": "x"})
    await step.emit(5, "x")  # pyright: ignore[reportArgumentType]
    key, winner = await step.race("first", a=step.run("a", charge, order), b=step.run("b", charge, order))
    assert_type(key, str)
    assert_type(winner, Payment)

    @step.do("confirm", retries=1)
    async def confirm(text: str) -> int:
        return len(text)

    @step.do("count")
    def count(text: str) -> int:
        return len(text)

    assert_type(await confirm("x"), int)
    assert_type(await count("x"), int)
    await confirm(1)  # pyright: ignore[reportArgumentType]
    return Receipt(order.id, payment.id)


@order_processing.on_error
async def release(step: Step, order: Order, error: BaseException) -> None:
    await step.run("release", charge, order)


@app.workflow
async def nightly(step: Step) -> int:
    return 1


@app.workflow("named")
async def other(step: Step, text: str) -> None: ...


@app.workflow
async def with_env(step: Step, order: Order, *, env: Resources) -> str:
    return env.db


@app.workflow
async def only_env(step: Step, *, env: Resources) -> str:
    return env.db


@app.workflow
async def waiting(step: Step, order: Order) -> None:
    assert_type(await step.listen("paid", event="payment", timeout="3 days", returns=Payment), Payment)
    assert_type(await step.listen("anything"), Any)
    assert_type(await step.execute_workflow("child", order_processing, order), Receipt)
    assert_type(await step.execute_workflow("nightly", nightly), int)
    handle = await step.start_workflow("start", order_processing, order, id="x", detached=True)
    assert_type(handle, Execution[Receipt])
    assert_type(await step.wait_for_workflow("wait", handle), Receipt)
    assert_type(await step.wait_for_workflow("wait-by-id", "x"), Any)
    await step.execute_workflow("wrong", order_processing, "order")  # pyright: ignore[reportCallIssue, reportArgumentType]
    await step.start_workflow("wrong", order_processing)  # pyright: ignore[reportArgumentType]


@app.workflow
def blocking(step: SyncStep, order: Order) -> Receipt:
    assert_type(step.listen("paid", returns=Payment), Payment)
    assert_type(step.execute_workflow("nightly", nightly), int)
    assert_type(step.wait_for_workflow("wait", step.start_workflow("start", order_processing, order)), Receipt)
    payment = step.run("charge", charge, order)
    assert_type(step.run("far", charge, order, executor="process"), Payment)
    assert_type(payment, Payment)
    assert_type(step.run("ship", ship, payment.id, False), int)
    assert_type(step.transaction("keep", keep, payment), int)
    step.run("ship", ship, 1)  # pyright: ignore[reportCallIssue, reportArgumentType]
    step.sleep("nap", 1)
    assert_type(step.now("now"), datetime)
    assert_type(step.map("payments", [order], charge), list[Payment])
    assert_type(step.map("sizes", ["a"], len, failures="collect"), list[int | BaseException])
    assert_type(step.map("rows", [1], untyped, returns=Row), list[Row])  # pyright: ignore[reportUnknownArgumentType]
    assert_type(step.batch("parts", [1, 2], sum_up, batch_size=4), list[int])
    step.for_each("each", [order], charge, concurrency=2)
    step.map("wrong", [1], charge)  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert_type(step.emit("tokens", "x"), None)
    assert_type(step.race("first", a=lambda: 1, b=lambda: 2), tuple[str, int])

    @step.do("count")
    def count(text: str) -> int:
        return len(text)

    assert_type(count("x"), int)
    return Receipt(order.id, payment.id)


@app.workflow(retries=RetryPolicy(retries=2, delay="1 second"))
def blocking_with_env(step: SyncStep, order: Order, *, env: Resources) -> str:
    return env.db


async def use() -> None:
    assert_type(order_processing, Workflow[Order, Receipt])
    assert_type(nightly, Workflow[None, int])
    assert_type(other, Workflow[str, None])
    assert_type(with_env, Workflow[Order, str])
    assert_type(only_env, Workflow[None, str])
    assert_type(blocking, Workflow[Order, Receipt])
    assert_type(blocking_with_env, Workflow[Order, str])
    async with app.running():
        execution = await order_processing.trigger(Order("a", 1))
        assert_type(execution, Execution[Receipt])
        assert_type(await execution.result(), Receipt)
        assert_type(await (await order_processing.trigger(Order("a", 1), id="x", delay="1 h")).result(), Receipt)
        assert_type(await execution.status(), Status)
        assert_type(await execution.info(), ExecutionInfo)
        assert_type(await execution.steps(), list[StepInfo])
        assert_type(await execution.export(), dict[str, Any])
        await execution.delete()
        assert_type(await (await nightly.trigger()).result(), int)
        assert_type(await order_processing.trigger_many([Order("a", 1)]), list[Execution[Receipt]])
        assert_type(await order_processing.list_executions(status="failed"), ExecutionList)
        assert_type(order_processing.get_execution("x"), Execution[Receipt])
        assert_type(app.get_execution("x"), Execution[Any])
        with sqlite3.connect("shop.db") as connection:
            assert_type(await order_processing.trigger(Order("a", 1), connection=connection), Execution[Receipt])
            assert_type(
                await order_processing.trigger_many([Order("a", 1)], connection=connection), list[Execution[Receipt]]
            )
            await execution.send_event("paid", 1, connection=connection)
            await order_processing.send_event("a", "paid", connection=connection)
            order_processing.trigger_sync(Order("a", 1), connection=connection)
        assert_type(await execution.restart(from_step="charge", input=Order("a", 2)), None)
        assert_type(await execution.fork(), Execution[Receipt])
        assert_type(await execution.runs(), list[RunInfo])
        async for info in execution.watch():
            assert_type(info, ExecutionInfo)
        async for item in execution.stream("tokens", after=5):
            assert_type(item, StreamItem)
            assert_type(item.offset, int)
            assert_type(item.take, int)
        await order_processing.trigger("wrong")  # pyright: ignore[reportArgumentType]
        await order_processing.trigger()  # pyright: ignore[reportCallIssue]
        await nightly.trigger(5)  # pyright: ignore[reportCallIssue, reportArgumentType]
        await order_processing.list_executions(status="done")  # pyright: ignore[reportArgumentType]


def use_sync() -> None:
    assert_type(order_processing.trigger_sync(Order("a", 1)), Execution[Receipt])
    assert_type(order_processing.trigger_sync(Order("a", 1)).result_sync(), Receipt)
    for item in order_processing.trigger_sync(Order("a", 1)).stream_sync("tokens", follow=False):
        assert_type(item, StreamItem)
    assert_type(app.execute(order_processing, Order("a", 1)), Receipt)
    assert_type(app.execute(nightly), int)
    assert_type(order_processing.get_execution("x").fork_sync(from_step="charge"), Execution[Receipt])
    app.execute(order_processing, "wrong")  # pyright: ignore[reportCallIssue, reportArgumentType]
    app.execute(order_processing)  # pyright: ignore[reportArgumentType]
