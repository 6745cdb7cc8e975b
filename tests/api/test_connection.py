"""`connection=`: an execution or an event in the caller's own transaction, there if and only if it commits."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from stepwell import App, Step
from stepwell.errors import (
    ExecutionExistsError,
    ExecutionNotFoundError,
    InvalidInputError,
    InvalidTransitionError,
    StoreUnavailableError,
    WorkflowCodeError,
)

app = App("shop")


@app.workflow
async def double(step: Step, number: int) -> int:
    return 2 * number


@app.workflow
async def listening(step: Step) -> Any:
    return await step.listen("paid")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
async def worker(file: Path, anyio_backend: str) -> AsyncIterator[None]:
    app.use_database(f"sqlite:///{file}")
    async with app.running():
        yield


@pytest.fixture
def mine(worker: None, file: Path) -> Iterator[sqlite3.Connection]:
    """The user's own connection, with a table of its own."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE orders (id TEXT PRIMARY KEY)")
        connection.commit()
        yield connection


def orders(connection: sqlite3.Connection) -> list[str]:
    return [id for (id,) in connection.execute("SELECT id FROM orders ORDER BY id")]


async def test_the_execution_is_there_if_and_only_if_the_transaction_commits(mine: sqlite3.Connection) -> None:
    mine.execute("INSERT INTO orders VALUES ('a')")
    execution = await double.trigger(21, id="a", connection=mine)
    with pytest.raises(ExecutionNotFoundError):
        await execution.status()
    with pytest.raises(ExecutionNotFoundError):
        await execution.result()

    mine.commit()

    assert await execution.result(timeout=5) == 42
    mine.execute("INSERT INTO orders VALUES ('b')")
    lost = await double.trigger(21, id="b", connection=mine)
    mine.rollback()
    with pytest.raises(ExecutionNotFoundError):
        await lost.status()
    assert orders(mine) == ["a"]


async def test_a_worker_starts_it_soon_after_the_commit(mine: sqlite3.Connection) -> None:
    execution = await double.trigger(1, connection=mine)
    assert mine.in_transaction, "one was begun, as by its own first statement"
    loop = asyncio.get_running_loop()
    mine.commit()
    committed = loop.time()

    await execution.result()

    assert loop.time() - committed < 1, "it does not wait for the next poll"
    info = await execution.info()
    assert (info.status, info.output) == ("completed", 2)


async def test_options_work_as_always(mine: sqlite3.Connection) -> None:
    execution = await double.trigger(
        1, id="x", delay="1 hour", priority=3, tags=["t"], timeout="1 day", connection=mine
    )
    mine.commit()

    info = await execution.info()
    assert (info.status, info.priority, info.tags) == ("queued", 3, ("t",))
    assert info.wake_at is not None
    with pytest.raises(InvalidInputError):
        await double.trigger("no number", connection=mine)  # pyright: ignore[reportArgumentType]
    assert not mine.in_transaction


async def test_an_id_that_is_taken_leaves_the_transaction_usable(mine: sqlite3.Connection) -> None:
    await double.trigger(1, id="taken")
    mine.execute("INSERT INTO orders VALUES ('a')")
    with pytest.raises(ExecutionExistsError):
        await double.trigger(1, id="taken", connection=mine)
    with pytest.raises(ExecutionExistsError, match="another workflow or input"):
        await double.trigger(2, id="taken", if_exists="return", connection=mine)
    again = await double.trigger(1, id="taken", if_exists="return", connection=mine)
    with pytest.raises(ExecutionExistsError):
        await double.trigger_many([5, 6], ids=["fresh", "taken"], connection=mine)
    mine.commit()

    assert again.id == "taken"
    assert orders(mine) == ["a"]
    with pytest.raises(ExecutionNotFoundError):
        await double.get_execution("fresh").status()


async def test_a_refusal_leaves_no_transaction_that_was_not_there(mine: sqlite3.Connection) -> None:
    await double.trigger(1, id="taken")
    with pytest.raises(ExecutionExistsError):
        await double.trigger(1, id="taken", connection=mine)
    assert not mine.in_transaction


async def test_many_at_once(mine: sqlite3.Connection) -> None:
    executions = await double.trigger_many([1, 2, 3], connection=mine)
    assert await double.trigger_many([], connection=mine) == []
    with pytest.raises(ExecutionNotFoundError):
        await executions[0].status()
    mine.commit()

    assert [await execution.result() for execution in executions] == [2, 4, 6]


async def test_an_event_is_sent_if_and_only_if_the_transaction_commits(mine: sqlite3.Connection) -> None:
    execution = await listening.trigger()
    await execution.send_event("paid", 1, connection=mine)
    mine.rollback()
    await execution.send_event("paid", 2, id="e", connection=mine)
    await execution.send_event("paid", 2, id="e", connection=mine)
    mine.commit()

    assert await execution.result(timeout=5) == 2
    with pytest.raises(InvalidTransitionError):
        await execution.send_event("paid", 3, connection=mine)
    with pytest.raises(ExecutionNotFoundError):
        await listening.send_event("nobody", "paid", connection=mine)
    assert not mine.in_transaction


async def test_rows_may_come_as_anything(mine: sqlite3.Connection) -> None:
    mine.row_factory = lambda cursor, row: {"only": row[0]}
    mine.text_factory = bytes
    await double.trigger(1, id="a", connection=mine)
    await double.trigger(1, id="a", if_exists="return", connection=mine)
    mine.commit()

    assert await double.get_execution("a").result() == 2
    assert mine.execute("SELECT 'x'").fetchone() == {"only": b"x"}


# Without an event loop


def test_the_sync_twin_writes_in_its_own_thread(file: Path) -> None:
    app.use_database(f"sqlite:///{file}")

    async def serve() -> None:
        async with app.running():
            with ThreadPoolExecutor(1) as pool:
                await asyncio.get_running_loop().run_in_executor(pool, in_thread)

    def in_thread() -> None:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            execution = double.trigger_sync(4, id="sync", connection=connection)
            [many] = double.trigger_many_sync([5], connection=connection)
            with pytest.raises(ExecutionNotFoundError):
                execution.status_sync()
            connection.commit()
            assert execution.result_sync() == 8
            assert many.result_sync() == 10
            waiting = listening.trigger_sync()
            waiting.send_event_sync("paid", 1, connection=connection)
            connection.rollback()
            listening.send_event_sync(waiting.id, "paid", 2, connection=connection)
            connection.commit()
            assert waiting.result_sync() == 2
            with pytest.raises(ExecutionExistsError):
                double.trigger_sync(4, id="sync", connection=connection)

    asyncio.run(serve())


def test_an_app_that_is_not_open_is_connected_first(file: Path) -> None:
    app.use_database(f"sqlite:///{file}")
    with contextlib.closing(sqlite3.connect(file)) as connection:
        execution = double.trigger_sync(4, connection=connection)
        connection.commit()
        assert execution.status_sync() == "queued"

    async def run() -> int:
        async with app.running():
            return await double.get_execution(execution.id).result()

    assert asyncio.run(run()) == 8


async def test_the_sync_twin_is_refused_in_an_event_loop(mine: sqlite3.Connection) -> None:
    with pytest.raises(WorkflowCodeError, match="inside an event loop"):
        double.trigger_sync(1, connection=mine)


# What cannot be


@pytest.mark.guarantee("G10")
async def test_a_connection_that_commits_by_itself_is_refused(worker: None, file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        with pytest.raises(InvalidInputError, match="no open transaction and commits each statement by itself"):
            await double.trigger(1, id="a", connection=connection)
        connection.execute("BEGIN")
        await double.trigger(1, id="a", connection=connection)
        connection.execute("COMMIT")
    assert await double.get_execution("a").result() == 2


@pytest.mark.guarantee("G10")
async def test_a_connection_to_another_database_is_refused(worker: None, tmp_path: Path) -> None:
    for other in (tmp_path / "other.db", ":memory:"):
        with contextlib.closing(sqlite3.connect(other)) as connection:
            with pytest.raises(InvalidInputError, match="Both must be one file"):
                await double.trigger(1, connection=connection)
            assert not connection.in_transaction


async def test_the_same_file_by_another_name_is_the_same_database(worker: None, file: Path, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(file)
    with contextlib.closing(sqlite3.connect(tmp_path / "link.db")) as connection:
        execution = await double.trigger(1, connection=connection)
        connection.commit()
    assert await execution.result() == 2


@pytest.mark.guarantee("G10")
async def test_temporary_tables_that_hide_those_of_stepwell_are_refused(mine: sqlite3.Connection) -> None:
    mine.execute("CREATE TEMP TABLE tags (tag)")
    with pytest.raises(InvalidInputError, match="temporary tables with the names of stepwell's: tags"):
        await double.trigger(1, connection=mine)


@pytest.mark.guarantee("G10")
async def test_a_connection_of_another_thread_or_a_closed_one_is_refused(worker: None, file: Path) -> None:
    made: list[sqlite3.Connection] = []
    thread = threading.Thread(target=lambda: made.append(sqlite3.connect(file)))
    thread.start()
    thread.join()
    with pytest.raises(InvalidInputError, match="same thread"):
        await double.trigger(1, connection=made[0])

    closed = sqlite3.connect(file)
    closed.close()
    with pytest.raises(InvalidInputError, match="closed"):
        await double.trigger(1, connection=closed)


class AsyncSession:
    """What an async session looks like from here: its driver's connection lives in another thread."""

    async def connection(self) -> sqlite3.Connection:
        raise AssertionError


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize("thing", ["shop.db", 7, AsyncSession()], ids=["text", "number", "async"])
async def test_what_is_no_connection_is_refused(worker: None, thing: object) -> None:
    with pytest.raises(InvalidInputError, match=r"must be a sqlite3\.Connection"):
        await double.trigger(1, connection=thing)


@pytest.mark.guarantee("G10")
async def test_the_database_in_memory_has_no_second_connection() -> None:
    app.use_database("sqlite://")
    async with app.running():
        with (
            contextlib.closing(sqlite3.connect(":memory:")) as connection,
            pytest.raises(InvalidInputError, match="file"),
        ):
            await double.trigger(1, connection=connection)


async def test_a_lock_that_another_connection_holds_is_told(mine: sqlite3.Connection, file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file, timeout=0.01)) as other:
        mine.execute("INSERT INTO orders VALUES ('a')")
        with pytest.raises(StoreUnavailableError, match="write lock"):
            await double.trigger(1, connection=other)
        assert not other.in_transaction
        mine.commit()
        execution = await double.trigger(1, connection=other)
        other.commit()
    assert await execution.result() == 2


async def test_workflow_code_is_refused_and_a_body_meets_its_first_execution(mine: sqlite3.Connection) -> None:
    flow_app, attempts = app, list[str]()

    async def body() -> str:
        execution = await double.trigger(3, connection=mine)
        mine.commit()
        attempts.append(execution.id)
        if len(attempts) == 1:
            raise ConnectionError("down")
        return execution.id

    @flow_app.workflow(name="from-a-body")
    async def flow(step: Step) -> str:
        with pytest.raises(WorkflowCodeError):
            await double.trigger(3, connection=mine)
        return await step.run("start", body, retry_delay=0)

    # A worker knows the workflows that are there when it claims.
    execution = await flow.trigger()
    id = await execution.result(timeout=5)
    assert attempts == [id, id]
    assert await double.get_execution(id).result() == 6


# What others hand out


async def test_sqlalchemy_connections_and_sessions(worker: None, file: Path) -> None:
    engine = create_engine(f"sqlite:///{file}")
    try:
        with engine.connect() as connection:
            connection.execute(text("CREATE TABLE orders (id TEXT)"))
            connection.execute(text("INSERT INTO orders VALUES ('a')"))
            first = await double.trigger(1, connection=connection)
            connection.commit()
            connection.execute(text("INSERT INTO orders VALUES ('b')"))
            lost = await double.trigger(2, connection=connection)
            connection.rollback()
            rows = connection.execute(text("SELECT id FROM orders")).scalars().all()
            connection.rollback()
        with Session(engine) as session:
            second = await double.trigger(3, connection=session)
            session.commit()
        assert await first.result() == 2
        assert await second.result() == 6
        assert rows == ["a"]
        with pytest.raises(ExecutionNotFoundError):
            await lost.status()
    finally:
        engine.dispose()
