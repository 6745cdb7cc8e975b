"""What `@app.resource` opens once a worker, and how workflows and bodies reach it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest

from stepwell import App, Step, SyncStep, current_step
from stepwell.errors import ExecutionFailedError, InvalidInputError
from stepwell.testing import sandbox


class Database:
    """Stands for a pool of connections."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    async def insert(self, row: str) -> str:
        self.events.append(row)
        return row


class Env(Protocol):
    @property
    def db(self) -> Database: ...


def app_with_database(events: list[str]) -> App:
    app = App()

    @app.resource
    async def db() -> AsyncGenerator[Database]:
        events.append("opened")
        try:
            yield Database(events)
        finally:
            events.append("closed")

    return app


@pytest.mark.parity("P1.8")
async def test_a_resource_is_opened_once_and_closed_at_the_end() -> None:
    events: list[str] = []
    app = app_with_database(events)

    @app.workflow
    async def flow(step: Step, row: str, *, env: Env) -> str:
        return await step.run("insert", env.db.insert, row)

    async with sandbox(app):
        assert await (await flow.trigger("a")).result() == "a"
        assert await (await flow.trigger("b")).result() == "b"
    assert events == ["opened", "a", "b", "closed"]


async def test_env_without_an_input() -> None:
    events: list[str] = []
    app = app_with_database(events)

    @app.workflow
    async def flow(step: Step, *, env: Env) -> str:
        return await step.run("insert", env.db.insert, "row")

    async with sandbox(app):
        assert await (await flow.trigger()).result() == "row"


async def test_step_env_is_the_same_in_workflows_and_bodies() -> None:
    events: list[str] = []
    app = app_with_database(events)

    async def body() -> bool:
        return isinstance(current_step().env.db, Database)

    def in_thread() -> bool:
        return isinstance(current_step().env.db, Database)

    @app.workflow
    async def flow(step: Step, *, env: Env) -> list[bool]:
        return [step.env.db is env.db, await step.run("body", body), await step.run("thread", in_thread)]

    async with sandbox(app):
        assert await (await flow.trigger()).result() == [True, True, True]


def test_plain_workflows_get_env_too() -> None:
    events: list[str] = []
    app = app_with_database(events)
    app.use_database("sqlite://")

    @app.workflow
    def flow(step: SyncStep, row: str, *, env: Env) -> str:
        assert threading.current_thread() is not threading.main_thread()
        env.db.events.append(row)
        return row

    assert app.execute(flow, "row") == "row"
    assert events == ["opened", "row", "closed"]


async def test_an_async_context_manager_is_a_resource_as_well() -> None:
    app = App()
    events: list[str] = []

    @app.resource
    @asynccontextmanager
    async def http() -> AsyncGenerator[str]:
        events.append("opened")
        try:
            yield "client"
        finally:
            events.append("closed")

    @app.workflow
    async def flow(step: Step) -> str:
        return step.env.http

    async with sandbox(app):
        assert await (await flow.trigger()).result() == "client"
    assert events == ["opened", "closed"]


async def test_resources_are_closed_in_reverse_order() -> None:
    app = App()
    events: list[str] = []

    @app.resource
    async def first() -> AsyncGenerator[None]:
        events.append("first opened")
        yield
        events.append("first closed")

    @app.resource
    async def second() -> AsyncGenerator[None]:
        events.append("second opened")
        yield
        events.append("second closed")

    async with sandbox(app):
        pass
    assert events == ["first opened", "second opened", "second closed", "first closed"]


async def test_a_resource_is_open_until_the_last_body_has_ended() -> None:
    events: list[str] = []
    app = app_with_database(events)

    @app.workflow
    async def flow(step: Step) -> None:
        async def slow() -> None:
            try:
                while True:
                    await step.env.db.insert("tick")
                    await _turn()
            finally:
                events.append("body ended")

        await step.run("slow", slow)

    async with sandbox(app):
        await flow.trigger()
        while "tick" not in events:
            await _turn()
    assert events[-2:] == ["body ended", "closed"]


async def _turn() -> None:
    await asyncio.sleep(0.001)


async def test_each_worker_opens_them_anew() -> None:
    events: list[str] = []
    app = app_with_database(events)

    @app.workflow
    async def flow(step: Step, row: str, *, env: Env) -> str:
        return await step.run("insert", env.db.insert, row)

    for row in "ab":
        async with sandbox(app):
            assert await (await flow.trigger(row)).result() == row
    assert events == ["opened", "a", "closed", "opened", "b", "closed"]


async def test_a_client_without_a_worker_opens_nothing() -> None:
    events: list[str] = []
    app = app_with_database(events)
    app.use_database("sqlite://")

    async with app.connected():
        pass
    assert events == []


async def test_a_resource_that_cannot_be_opened_stops_the_start_and_closes_the_others() -> None:
    events: list[str] = []
    app = app_with_database(events)

    @app.resource
    async def broken() -> AsyncGenerator[None]:
        raise ConnectionError("no route")
        yield

    with pytest.raises(ConnectionError, match="no route"):
        async with sandbox(app):
            events.append("never")
    assert events == ["opened", "closed"]


async def test_a_resource_that_does_not_exist_is_named() -> None:
    app = app_with_database([])

    @app.workflow
    async def flow(step: Step, *, env: Any) -> None:
        env.databse.insert("row")

    async with sandbox(app):
        with pytest.raises(ExecutionFailedError, match="databse"):
            await (await flow.trigger()).result()


@pytest.mark.guarantee("G10")
def test_two_resources_of_one_name_are_refused() -> None:
    app = app_with_database([])

    async def db() -> AsyncGenerator[None]:
        yield

    with pytest.raises(InvalidInputError, match="db"):
        app.resource(db)


@pytest.mark.guarantee("G10")
def test_a_resource_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        App().resource(lambda: asynccontextmanager(_nothing)())


async def _nothing() -> AsyncGenerator[None]:
    yield
