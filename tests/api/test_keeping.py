"""Deleting, retention and export, as users see them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    App,
    ExecutionNotFoundError,
    InvalidInputError,
    InvalidTransitionError,
    Step,
    Workflow,
    WorkflowCodeError,
    current_step,
)
from stepwell.clock import from_us
from stepwell.testing import sandbox

pytestmark = pytest.mark.anyio


def shop(**options: Any) -> tuple[App, Workflow[str, str]]:
    app = App("shop")

    async def charge(order: str) -> str:
        return f"paid {order}"

    @app.workflow(**options)
    async def flow(step: Step, order: str) -> str:
        return await step.run("charge", charge, order)

    return app, flow


# ------------------------------------------------------------------------------------------------- deleting


async def test_a_deleted_execution_is_not_found_any_more() -> None:
    app, flow = shop()
    async with sandbox(app):
        execution = await flow.trigger("o", id="a")
        await execution.result()

        await execution.delete()

        for ask in (execution.status, execution.info, execution.result, execution.steps, execution.delete):
            with pytest.raises(ExecutionNotFoundError):
                await ask()
        assert (await app.list_executions()).executions == []


async def test_one_that_has_not_ended_is_to_be_cancelled_first() -> None:
    app = App("shop")

    @app.workflow
    async def flow(step: Step) -> None:
        await step.sleep("nap", "1 day")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()

        with pytest.raises(InvalidTransitionError, match="it is sleeping; cancel it first"):
            await execution.delete()
        await execution.cancel()
        await execution.delete()

        with pytest.raises(ExecutionNotFoundError):
            await execution.status()


async def test_its_watchers_are_told() -> None:
    app, flow = shop()
    async with sandbox(app):
        execution = await flow.trigger("o", delay="1 hour")
        watcher = execution.watch()
        await anext(watcher)
        await app.client.store.cancel(execution.id, reason=None, now=0)
        await execution.delete()

        with pytest.raises(ExecutionNotFoundError):
            await anext(watcher)


async def test_workflow_code_is_told_to_delete_in_a_step() -> None:
    app = App("shop")

    @app.workflow
    async def flow(step: Step) -> None:
        await app.get_execution("x").delete()

    async with sandbox(app):
        with pytest.raises(Exception, match=r"Execution\.delete") as caught:
            await (await flow.trigger()).result()
        assert isinstance(caught.value.__cause__, WorkflowCodeError)


def test_the_sync_twins(tmp_path: Path) -> None:
    app, flow = shop()
    app.use_database(f"sqlite:///{tmp_path}/test.db")
    app.execute(flow, "o")
    [info] = flow.list_executions_sync().executions

    execution = flow.get_execution_sync(info.id)
    assert execution.export_sync()["execution"]["id"] == info.id
    execution.delete_sync()

    with pytest.raises(ExecutionNotFoundError):
        execution.info_sync()


async def test_a_child_that_its_parent_waits_for_is_kept() -> None:
    app, child = shop()

    @app.workflow
    async def parent(step: Step) -> None:
        await step.start_workflow("start", child, "o", id="c")
        await step.sleep("nap", "1 day")

    async with sandbox(app) as tester:
        execution = await parent.trigger(id="p")
        await tester.settle()
        assert await app.get_execution("c").status() == "completed"

        with pytest.raises(InvalidTransitionError, match="it is completed, and execution 'p', which has not ended"):
            await app.get_execution("c").delete()

        await tester.advance("1 day")
        await app.get_execution("c").delete()
        await execution.delete()


async def test_a_parent_whose_children_are_being_cancelled_takes_them_along() -> None:
    app = App("shop")

    @app.workflow
    async def child(step: Step) -> None:
        await step.sleep("nap", "1 day")

    @app.workflow
    async def parent(step: Step) -> None:
        await step.start_workflow("start", child, None, id="c")
        await step.sleep("nap", "1 day")

    async with sandbox(app) as tester:
        execution = await parent.trigger(id="p")
        await tester.settle()
        # As another process does it, which has died before it came to the children.
        await app.client.store.cancel("p", reason=None, now=tester.clock.now())
        await execution.delete()

        info = await app.get_execution("c").info()
        assert (info.status, info.parent_id) == ("cancelled", "p")


async def test_an_id_that_is_used_again_begins_a_new_life() -> None:
    """Its children, and what its bodies trigger and send, are not those of the execution that had the id before."""
    app, child = shop()

    @app.workflow
    async def receiver(step: Step) -> list[Any]:
        return [await step.listen("first", event="news"), await step.listen("second", event="news")]

    @app.workflow
    async def parent(step: Step, order: str) -> str:
        async def report() -> str:
            await app.get_execution("r").send_event("news", order)
            return (await child.trigger(order)).id

        triggered = await step.run("report", report)
        output = await step.execute_workflow("child", child, order)
        return f"{output}, {triggered}"

    async with sandbox(app) as tester:
        await receiver.trigger(id="r")
        outputs: list[str] = []
        for order in ("o1", "o2"):
            await tester.advance("1 second")
            execution = await parent.trigger(order, id="p")
            await tester.settle()
            outputs.append(await execution.result())
            await execution.delete()

        assert [output.split(", ")[0] for output in outputs] == ["paid o1", "paid o2"]
        assert outputs[0].split(", ")[1] != outputs[1].split(", ")[1]
        assert await app.get_execution("r").result() == ["o1", "o2"]
        assert len((await child.list_executions()).executions) == 4


# ------------------------------------------------------------------------------------------------- retention


async def ids(app: App) -> set[str]:
    return {info.id for info in (await app.list_executions()).executions}


async def test_executions_are_kept_for_thirty_days_by_default() -> None:
    app, flow = shop()
    async with sandbox(app) as tester:
        await flow.trigger("o", id="a")
        await tester.advance("29 days 23 hours")
        assert await ids(app) == {"a"}

        await tester.advance("1 hour")
        assert await ids(app) == set()


@pytest.mark.parametrize("retention", ["1 hour", None])
async def test_the_retention_of_the_workflow_counts(retention: str | None) -> None:
    app, flow = shop(retention=retention)

    async with sandbox(app) as tester:
        await flow.trigger("o", id="a")
        await tester.advance("2 hours")
        assert await ids(app) == ({"a"} if retention is None else set())
        await tester.advance("1000 days")
        assert await ids(app) == ({"a"} if retention is None else set())


async def test_each_is_deleted_in_its_time() -> None:
    app = App("shop")

    @app.workflow(retention="1 day")
    async def short(step: Step) -> None: ...

    @app.workflow
    async def long(step: Step) -> None: ...

    async with sandbox(app) as tester:
        await long.trigger(id="long")
        await short.trigger(id="short-1")
        await tester.advance("23 hours")
        await short.trigger(id="short-2")
        await tester.advance("2 hours")
        assert await ids(app) == {"long", "short-2"}
        await tester.advance("1 day")
        assert await ids(app) == {"long"}
        await tester.advance("30 days")
        assert await ids(app) == set()


async def test_what_was_cancelled_outside_of_memory_is_deleted_too() -> None:
    app, flow = shop()
    async with sandbox(app) as tester:
        execution = await flow.trigger("o", delay="1 day")
        await execution.cancel()
        await tester.advance("31 days")
        assert await ids(app) == set()


async def test_retention_never_breaks_a_living_execution() -> None:
    """A child ends long before its parent asks for its output."""
    app, child = shop(retention="1 minute")

    @app.workflow
    async def parent(step: Step) -> str:
        started = await step.start_workflow("start", child, "o", id="c")
        await step.sleep("nap", "90 days")
        return await step.wait_for_workflow("wait", started)

    async with sandbox(app) as tester:
        execution = await parent.trigger(id="p")
        await tester.advance("80 days")
        assert await ids(app) == {"p", "c"}
        await tester.advance("10 days")
        assert await execution.result() == "paid o"
        await tester.advance("31 days")
        assert await ids(app) == set()


async def test_another_worker_deletes_what_was_left(tmp_path: Path) -> None:
    app, flow = shop()
    async with sandbox(app, database=f"sqlite:///{tmp_path}/test.db") as tester:
        for index in range(450):
            await flow.trigger("o", id=f"e{index}")
        await tester.settle()
        begin = tester.clock.now()

    later = App("later")
    async with sandbox(later, database=f"sqlite:///{tmp_path}/test.db") as tester:
        await tester.advance("31 days")
        assert tester.clock.now() > begin
        assert await ids(later) == set()


@pytest.mark.parametrize("retention", [0, -1, "soon", True])
def test_what_is_no_retention_is_refused(retention: Any) -> None:
    with pytest.raises(InvalidInputError, match="retention must be"):
        App().workflow(retention=retention)


# ------------------------------------------------------------------------------------------------- export


@dataclass
class Order:
    id: str
    total: int


@pytest.fixture
async def exported(tmp_path: Path, anyio_backend: str) -> AsyncGenerator[tuple[dict[str, Any], Path]]:
    """The export of an execution with a bit of everything, and its database."""
    app, child = shop()

    async def flaky() -> str:
        if current_step().attempt == 1:
            raise ValueError("not yet")
        return "well"

    @app.workflow(name="story", tags=["eu"], version="7", timeout="1 hour")
    async def story(step: Step, order: Order) -> Order:
        await step.run("flaky", flaky, retry_delay=1)
        await step.listen("paid")
        await step.execute_workflow("child", child, "o", id="c")
        await step.emit("news", {"order": order.id})
        return order

    async with sandbox(app, database=f"sqlite:///{tmp_path}/test.db") as tester:
        execution = await story.trigger(Order("A-1", 5), id="a", tags=["vip"], priority=3)
        await tester.advance("2 seconds")
        await execution.send_event("paid", {"by": "card"}, id="p1")
        await tester.settle()
        await execution.result()
        yield await execution.export(), tmp_path / "test.db"


async def test_an_export_tells_the_whole_story(exported: tuple[dict[str, Any], Path]) -> None:
    document, _ = exported

    assert json.loads(json.dumps(document)) == document
    assert (document["format"], document["format_version"]) == ("stepwell.execution", 1)
    head = document["execution"]
    assert (head["id"], head["workflow"], head["status"], head["version"]) == ("a", "story", "completed", "7")
    assert (head["retention"], head["timeout"], head["priority"]) == (30 * 86_400, 3_600, 3)
    assert head["created_at"] == "2030-01-01T00:00:00+00:00"
    assert (document["tags"], document["children"]) == (["eu", "vip"], ["c"])
    [run] = document["runs"]
    assert (run["run"], run["status"]) == (1, "completed")
    assert run["input"] == run["output"] == {"id": "A-1", "total": 5}
    assert [step["path"] for step in run["steps"]] == ["flaky", "paid", "child"]
    [failed] = run["steps"][0]["attempts"]
    assert (failed["attempt"], failed["error"]["message"]) == (1, "not yet")
    [item] = document["streams"]
    assert (item["stream"], item["offset"], item["value"]) == ("news", 1, {"order": "A-1"})
    [event] = document["events"]
    assert (event["name"], event["payload"], event["received_by"]) == ("paid", {"by": "card"}, "paid")


FLAGS = {"attached", "orphaning", "crashed", "undo"}
KEYS = {"executions": {"id", "run"}}  # the run is moved on: how an earlier one ended stands with its payloads


def mark(connection: sqlite3.Connection, table: str) -> dict[str, Any]:
    """Give each column that is no key a value of its own in the rows of execution `a`; how an export shows it."""
    shown: dict[str, Any] = {}
    key = "id" if table == "executions" else "execution_id"
    columns = [(row[1], row[2]) for row in connection.execute(f"PRAGMA table_info({table})") if not row[5]]
    for number, (column, kind) in enumerate(columns, 1_000 * (1 + sum(map(ord, table)))):
        if column in {key, *KEYS.get(table, ())}:
            continue
        name = f"{table}.{column}"
        stored: Any = (
            1 if column in FLAGS else number if kind == "INTEGER" else json.dumps({"type": name, "message": name})
        )
        shown[name] = stored
        if column in FLAGS:
            shown[name] = True
        elif column.endswith("_at"):
            shown[name] = from_us(number).isoformat()
        elif column in ("retention", "timeout"):
            shown[name] = number / 1_000_000
        elif column == "error":
            shown[name] = name
        elif column in ("input", "output", "options", "payload", "value"):
            shown[name] = {"type": name, "message": name}
        assert connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = 'a'", (stored,)).rowcount, table
    return shown


async def test_every_value_of_every_table_is_in_an_export(exported: tuple[dict[str, Any], Path]) -> None:
    _, path = exported
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        kept = [
            table
            for table in tables
            if "execution_id" in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        ]
        marks = {table: mark(connection, table) for table in ("executions", *kept)}
        connection.execute("UPDATE executions SET run = 2 WHERE id = 'a'")
        connection.commit()

    app = App("other", database=f"sqlite:///{path}")
    async with app.connected():
        document = await app.get_execution("a").export()

    [run] = document["runs"]
    step = run["steps"][0]
    places: dict[str, list[dict[str, Any]]] = {
        "executions": [document["execution"]],
        "payloads": [run],
        "steps": [step],
        "attempts": step["attempts"],
        "tags": [],  # their tag is their key; created_at is that of the execution
        **{name: value for name, value in document.items() if name in kept},
    }
    assert set(places) == set(marks)
    for table, [row] in ((table, rows[:1]) for table, rows in places.items() if rows):
        for name, shown in marks[table].items():
            value = row[name.partition(".")[2]]
            assert (value["message"] if name.endswith(".error") else value) == shown, name


async def test_what_is_not_there_cannot_be_exported() -> None:
    app, _ = shop()
    async with sandbox(app):
        with pytest.raises(ExecutionNotFoundError):
            await app.get_execution("nobody").export()
