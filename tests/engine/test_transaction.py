"""`step.transaction`: what the function writes and the record of its step are committed together, or neither is."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell import App, Step, SyncStep, current_step
from stepwell.errors import (
    ExecutionCancelledError,
    ExecutionFailedError,
    InvalidInputError,
    NonRetryableError,
    SerializationError,
    StepTimeoutError,
    WorkflowCodeError,
)
from stepwell.testing import Tester, sandbox
from tests.engine.conftest import Ledger, statuses, until

CREATE = "CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, amount INTEGER NOT NULL)"


def put(connection: sqlite3.Connection, name: str, amount: int = 1) -> int:
    connection.execute("INSERT INTO accounts VALUES (?, ?)", (name, amount))
    return amount


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path / 'shop.db'}"


def create(connection: sqlite3.Connection) -> None:
    connection.execute(CREATE)


async def accounts(app: App) -> dict[str, int]:
    """What stands in the user's table, read as a step would."""

    def read(connection: sqlite3.Connection) -> dict[str, int]:
        return dict(connection.execute("SELECT name, amount FROM accounts ORDER BY name").fetchall())

    workflow: Any = app.workflows.get("reading")
    if workflow is None:

        @app.workflow(name="reading")
        async def reading(step: Step) -> dict[str, int]:
            return await step.transaction("read", read)

        workflow = reading
    return await (await workflow.trigger()).result()


def in_mine(_: object) -> str:
    return "mine"


def flow_of(app: App, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A workflow that makes the table and then calls `fn` in a transaction called `put`."""

    @app.workflow
    async def flow(step: Step) -> Any:
        await step.transaction("create", create)
        transaction: Any = step.transaction
        return await transaction("put", fn, *args, **options)

    return flow


async def failure(tester: Tester, flow: Any, url: str = "") -> BaseException:
    """The error with which an execution of `flow` fails."""
    execution = await flow.trigger()
    await tester.advance("1 hour")
    with pytest.raises(ExecutionFailedError) as failed:
        await execution.result()
    assert failed.value.__cause__ is not None
    return failed.value.__cause__


@pytest.mark.guarantee("G3")
async def test_rows_and_record_are_there_together_and_a_replay_gives_the_recorded_value(url: str) -> None:
    app = App()
    calls: list[int] = []

    @app.workflow
    async def flow(step: Step) -> list[int]:
        await step.transaction("create", create)

        def write(connection: sqlite3.Connection, amount: int) -> int:
            calls.append(amount)
            return put(connection, f"a{amount}", amount)

        first = await step.transaction("first", write, 1)
        await step.sleep("nap", "1 hour")
        again = await step.transaction("first", write, 1)
        return [first, again, await step.transaction("second", write, 2)]

    async with sandbox(app, database=url) as tester:
        execution = await flow.trigger()
        await tester.settle()
        await tester.crash()
        await tester.advance("1 hour")

        assert await execution.result() == [1, 1, 2]
        assert calls == [1, 2]
        assert await accounts(app) == {"a1": 1, "a2": 2}
        steps = {step.path: (step.kind, step.status, step.input, step.output) for step in await execution.steps()}
        assert steps["first"] == ("transaction", "completed", [1], 1)


@pytest.mark.guarantee("G3")
async def test_a_plain_workflow_has_transactions_too(url: str) -> None:
    app = App()

    @app.workflow
    def flow(step: SyncStep) -> int:
        step.transaction("create", create)
        return step.transaction("put", put, "a", 5, retries=0)

    async with sandbox(app, database=url):
        assert await (await flow.trigger()).result() == 5
        assert await accounts(app) == {"a": 5}


@pytest.mark.guarantee("G3")
async def test_an_error_rolls_back_and_the_attempt_is_made_again(url: str) -> None:
    app = App()
    attempts: list[int] = []

    def fail_twice(connection: sqlite3.Connection) -> str:
        attempts.append(current_step().attempt)
        put(connection, f"attempt-{len(attempts)}")
        if len(attempts) < 3:
            raise ConnectionError("down")
        return current_step().idempotency_key

    flow = flow_of(app, fail_twice)
    async with sandbox(app, database=url) as tester:
        execution = await flow.trigger()
        await tester.settle()
        await tester.advance("10 seconds")

        assert await execution.result() == f"{execution.id}/put/1"
        assert attempts == [1, 2, 3]
        assert await accounts(app) == {"attempt-3": 1}
        [step] = [step for step in await execution.steps() if step.path == "put"]
        assert (step.kind, step.attempt) == ("transaction", 3)
        assert [(each.attempt, each.error.type) for each in step.attempts] == [
            (1, "ConnectionError"),
            (2, "ConnectionError"),
        ]


async def test_an_attempt_goes_on_after_a_crash_during_its_backoff() -> None:
    app = App()
    attempts: list[int] = []

    def fail_once(connection: sqlite3.Connection) -> int:
        attempts.append(current_step().attempt)
        if len(attempts) == 1:
            raise ConnectionError("down")
        return put(connection, "a", 7)

    flow = flow_of(app, fail_once, retry_delay="1 hour")
    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        await tester.crash()
        await tester.advance("2 hours")

        assert await execution.result() == 7
        assert attempts == [1, 2]


@pytest.mark.parametrize("make", [NonRetryableError, lambda: KeyboardInterrupt("stop")], ids=["never", "base"])
async def test_the_last_error_fails_the_step(make: Callable[[], BaseException], url: str) -> None:
    app = App()

    def fail(connection: sqlite3.Connection) -> None:
        put(connection, "a")
        raise make()

    flow = flow_of(app, fail, retries=0)
    async with sandbox(app, database=url) as tester:
        error = await failure(tester, flow)
        assert type(error).__name__ in ("NonRetryableError", "KeyboardInterrupt", "StepFailedError")
        assert await accounts(app) == {}
        [row] = [info.id for info in (await flow.list_executions()).executions]
        [step] = [step for step in await flow.get_execution(row).steps() if step.path == "put"]
        assert (step.status, len(step.attempts)) == ("failed", 1)


async def test_a_result_that_cannot_be_stored_rolls_back_and_fails_at_once(url: str) -> None:
    app = App()
    calls: list[str] = []

    def odd(connection: sqlite3.Connection) -> object:
        calls.append("called")
        put(connection, "a")
        return threading.Lock()

    flow = flow_of(app, odd)
    async with sandbox(app, database=url) as tester:
        assert isinstance(await failure(tester, flow), SerializationError)
        assert calls == ["called"]
        assert await accounts(app) == {}


# What the function must not do


def _with_connection(connection: sqlite3.Connection) -> None:
    with connection:
        put(connection, "inside")


def _swallowed(connection: sqlite3.Connection) -> None:
    put(connection, "before")
    with contextlib.suppress(Exception):
        connection.commit()


def _statement(sql: str) -> Callable[[sqlite3.Connection], None]:
    def execute(connection: sqlite3.Connection) -> None:
        connection.execute(sql)

    return execute


def _on_conflict_rollback(connection: sqlite3.Connection) -> None:
    put(connection, "first")
    with contextlib.suppress(sqlite3.IntegrityError):
        connection.execute("INSERT OR ROLLBACK INTO accounts VALUES ('first', 2)")
    put(connection, "alone")


def _lost_at_the_end(connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.IntegrityError):
        connection.execute("INSERT OR ROLLBACK INTO accounts VALUES ('a', NULL)")


def _set(name: str, value: object) -> Callable[[sqlite3.Connection], None]:
    return lambda connection: setattr(connection, name, value)


MISUSES: dict[str, tuple[Callable[[sqlite3.Connection], object], str]] = {
    "commit": (lambda c: c.commit(), r"must not call commit\(\): stepwell commits when the function returns"),
    "rollback": (lambda c: c.rollback(), r"must not call rollback\(\): stepwell commits"),
    "close": (lambda c: c.close(), r"must not call close\(\)"),
    "with": (_with_connection, "must not COMMIT: stepwell commits"),
    "swallowed": (_swallowed, r"must not call commit\(\)"),
    "COMMIT": (_statement("COMMIT"), "must not COMMIT"),
    "END": (_statement("END"), "must not COMMIT"),
    "ROLLBACK": (_statement("ROLLBACK"), "must not ROLLBACK"),
    "BEGIN": (_statement("BEGIN"), "must not BEGIN"),
    "script": (lambda c: c.executescript("SELECT 1"), r"must not call executescript\(\)"),
    "cursor's script": (lambda c: c.cursor().executescript("SELECT 1"), r"must not call executescript\(\)"),
    "attach": (_statement("ATTACH ':memory:' AS other"), "must not ATTACH"),
    "pragma": (_statement("PRAGMA synchronous = OFF"), "must not set PRAGMA synchronous"),
    "temporary": (_statement("CREATE TEMP TABLE executions (id)"), "'executions' as temporary"),
    "insert": (_statement("INSERT INTO tags VALUES ('t', 1, 'e')"), "must not change 'tags', which is stepwell's"),
    "update": (_statement("UPDATE Executions SET epoch = 9"), "must not change 'executions'"),
    "delete": (_statement("DELETE FROM steps"), "must not change 'steps'"),
    "drop": (_statement("DROP TABLE workers"), "must not change 'workers'"),
    "drop view": (_statement("DROP VIEW stepwell_steps"), "must not change 'stepwell_steps'"),
    "alter": (_statement("ALTER TABLE steps ADD COLUMN mine"), "must not change 'steps'"),
    "index": (_statement("CREATE INDEX mine ON steps (output)"), "must not change 'steps'"),
    "trigger": (_statement("CREATE TRIGGER mine AFTER INSERT ON steps BEGIN SELECT 1; END"), "must not change 'steps'"),
    "authorizer": (lambda c: c.set_authorizer(None), r"must not call set_authorizer\(\)"),
    "progress": (lambda c: c.set_progress_handler(None, 0), r"must not call set_progress_handler\(\)"),
    "isolation": (_set("isolation_level", "DEFERRED"), "must not set isolation_level"),
    "lost": (_on_conflict_rollback, "goes on after SQLite has rolled its transaction back"),
    "lost at the end": (_lost_at_the_end, "SQLite has rolled back the transaction"),
    "coroutine": (lambda c: asyncio.sleep(0), "must be a plain function"),
}


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize("name", MISUSES)
async def test_misuse_of_the_connection_is_refused_and_leaves_nothing(name: str, url: str) -> None:
    fn, problem = MISUSES[name]
    app = App()
    calls: list[str] = []

    def misuse(connection: sqlite3.Connection) -> object:
        calls.append(name)
        put(connection, "mine")
        return fn(connection)

    flow = flow_of(app, misuse, retries=1)
    async with sandbox(app, database=url) as tester:
        error = await failure(tester, flow)
        with pytest.raises(type(error), match=problem):
            raise error
        assert calls == [name], "it is not tried again"
        assert await accounts(app) == {}


async def test_everything_else_works_and_the_connection_comes_back_as_it_was(url: str) -> None:
    app = App()
    seen: list[Any] = []

    def busy(connection: sqlite3.Connection) -> list[Any]:
        connection.row_factory = sqlite3.Row
        connection.text_factory = bytes
        connection.create_function("upper", 1, in_mine)
        connection.execute("CREATE TABLE mine (a)")
        connection.execute("CREATE INDEX mine_a ON mine (a)")
        connection.executemany("INSERT INTO mine VALUES (?)", [(1,), (2,), (3,)])
        connection.execute("SAVEPOINT before")
        connection.execute("DELETE FROM mine")
        connection.execute("ROLLBACK TO before")
        cursor = connection.cursor()
        cursor.execute("SELECT a FROM mine")
        seen.append(cursor)
        first = cursor.fetchone()["a"]
        [(running,)] = connection.execute(
            "SELECT COUNT(*) FROM stepwell_executions WHERE status = 'running'"
        ).fetchall()
        columns = connection.execute("PRAGMA table_info(mine)").fetchall()
        return [first, running, len(columns)]

    def look(connection: sqlite3.Connection) -> list[Any]:
        rows = connection.execute("SELECT a, 'text' FROM mine").fetchall()
        if url != "sqlite://":
            assert connection.execute("SELECT upper('a')").fetchone() == ("A",)
        return [*rows[0], len(rows), connection.row_factory is None]

    @app.workflow
    async def flow(step: Step) -> list[Any]:
        return [await step.transaction("busy", busy), await step.transaction("look", look)]

    async with sandbox(app, database=url):
        execution = await flow.trigger()
        assert await execution.result() == [[1, 1, 1], [1, "text", 3, True]]
        with pytest.raises(sqlite3.ProgrammingError, match=r"closed|thread"):
            seen[0].fetchone()
        assert await (await flow.trigger()).status() in ("running", "queued")


async def test_a_cursor_in_the_middle_of_its_rows_does_not_hold_back_the_next_commit(tmp_path: Path) -> None:
    app = App()
    kept: list[Any] = []
    file = tmp_path / "shop.db"

    def leave_open(connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT INTO accounts VALUES (?, 1)", [(f"a{n}",) for n in range(500)])
        cursor = connection.execute("SELECT * FROM accounts")
        kept.append((cursor, cursor.fetchone()))

    flow = flow_of(app, leave_open)
    async with sandbox(app, database=f"sqlite:///{file}"):
        await (await flow.trigger()).result()
        with contextlib.closing(sqlite3.connect(file)) as other, other:
            other.execute("DELETE FROM accounts")
        assert await accounts(app) == {}


@pytest.mark.guarantee("G10")
async def test_an_async_function_is_refused_before_anything_runs(url: str) -> None:
    app = App()

    async def body(connection: sqlite3.Connection) -> None:
        raise AssertionError

    flow = flow_of(app, body)
    async with sandbox(app, database=url) as tester:
        error = await failure(tester, flow)
        assert isinstance(error, TypeError)
        assert "needs a plain function on SQLite" in str(error)


@pytest.mark.guarantee("G10")
async def test_a_longer_timeout_than_five_seconds_is_refused() -> None:
    app = App()
    flow = flow_of(app, put, "a", timeout=6)
    async with sandbox(app) as tester:
        error = await failure(tester, flow)
        assert isinstance(error, InvalidInputError)
        assert "may be at most 5 s, got 6" in str(error)


async def test_stepwell_inside_the_function_raises_instead_of_waiting_for_itself(url: str) -> None:
    app = App()
    problems: list[str] = []

    @app.workflow
    async def other(step: Step) -> None:
        pass

    def call(connection: sqlite3.Connection) -> str:
        step = current_step(SyncStep)
        attempts: list[Callable[[], object]] = [
            lambda: step.run("inner", print),
            lambda: step.sleep("inner", 1),
            lambda: step.transaction("inner", put, "b"),
            lambda: step.now("inner"),
            other.trigger_sync,
            lambda: other.trigger_sync(connection=connection),
            lambda: asyncio.run(other.trigger()),
            lambda: asyncio.run(other.list_executions()),
            other.list_executions_sync,
            lambda: other.get_execution("e").cancel_sync(),
        ]
        for attempt in attempts:
            try:
                attempt()
            except WorkflowCodeError as error:
                problems.append(str(error))
        put(connection, "a")
        return f"{step.path} {step.attempt} {step.execution_id} {step.uuid('u')}"

    flow = flow_of(app, call)
    async with sandbox(app, database=url):
        execution = await flow.trigger()
        assert (await execution.result()).startswith(f"put 1 {execution.id} ")
        assert len(problems) == (10 if url == "sqlite://" else 9), problems
        assert all("step.transaction" in problem for problem in problems)
        assert await accounts(app) == {"a": 1}


async def test_partials_and_stubs(url: str) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> list[int]:
        await step.transaction("create", create)
        bound = functools.partial(put, amount=3)
        return [await step.transaction("partial", bound, "p"), await step.transaction("stubbed", put, "s")]

    async with sandbox(app, database=url) as tester:
        tester.stub("stubbed", returns=9)
        assert await (await flow.trigger()).result() == [3, 9]
        assert await accounts(app) == {"p": 3}


async def test_a_name_keeps_its_kind() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.transaction("same", create)
        await step.run("same", print)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        assert "was called as a transaction" in str((await execution.info()).waiting_for)


# Time


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"


async def test_a_statement_that_takes_too_long_is_interrupted(url: str) -> None:
    app = App()

    def endless(connection: sqlite3.Connection) -> None:
        put(connection, "a")
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute(f"INSERT INTO accounts SELECT 'n', ({ENDLESS})")
        put(connection, "alone")

    flow = flow_of(app, endless, timeout=0.1, retries=0)
    async with sandbox(app, database=url) as tester:
        began = time.monotonic()
        error = await failure(tester, flow)
        assert isinstance(error, StepTimeoutError)
        assert (error.path, error.seconds) == ("put", 0.1)
        assert time.monotonic() - began < 3
        assert await accounts(app) == {}


async def test_python_code_that_takes_too_long_is_named_and_rolled_back(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    warned = threading.Event()

    class Warned(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "holds the write lock" in record.getMessage():
                warned.set()

    def block(connection: sqlite3.Connection) -> bool:
        put(connection, "a")
        return warned.wait(5)

    flow = flow_of(app, block, timeout=0.05, retries=0)
    handler = Warned()
    logging.getLogger("stepwell").addHandler(handler)
    try:
        async with sandbox(app, database=url) as tester:
            assert isinstance(await failure(tester, flow), StepTimeoutError)
            assert warned.is_set()
            assert "step 'put'" in caplog.text
            assert await accounts(app) == {}
    finally:
        logging.getLogger("stepwell").removeHandler(handler)


# Cancelling


class Gate:
    """A function that says when it has begun and waits until it may go on."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.calls = 0

    def __call__(self, connection: sqlite3.Connection, name: str) -> str:
        self.calls += 1
        self.begun.set()
        assert self.go.wait(5)
        put(connection, name)
        return name


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.go.set()


@pytest.mark.guarantee("G8")
async def test_a_cancel_during_the_function_comes_after_it(gate: Gate, tmp_path: Path) -> None:
    app = App()
    flow = flow_of(app, gate, "a")
    async with sandbox(app, database=f"sqlite:///{tmp_path / 'shop.db'}"):
        execution = await flow.trigger()
        await until(gate.begun.is_set)
        cancelling = asyncio.ensure_future(execution.cancel())
        await asyncio.sleep(0)
        gate.go.set()
        await cancelling

        with pytest.raises(ExecutionCancelledError):
            await execution.result()
        assert await statuses(execution) == {"create": "completed", "put": "completed"}
        assert await accounts(app) == {"a": 1}


@pytest.mark.guarantee("G8")
async def test_a_cancel_before_the_function_keeps_it_from_running(gate: Gate, tmp_path: Path) -> None:
    """Two executions want the writer; the second is cancelled while the first has it, by a call that got in line before."""
    app = App()
    late: list[str] = []

    @app.workflow
    async def first(step: Step) -> str:
        await step.transaction("create", create)
        return await step.transaction("put", gate, "first")

    ready = asyncio.Event()

    @app.workflow
    async def second(step: Step) -> None:
        await ready.wait()
        await step.transaction("put", lambda connection: late.append("ran"))

    async with sandbox(app, database=f"sqlite:///{tmp_path / 'shop.db'}"):
        one, two = await first.trigger(), await second.trigger()
        await until(gate.begun.is_set)
        cancelling = asyncio.ensure_future(two.cancel())
        await asyncio.sleep(0)
        ready.set()
        await asyncio.sleep(0)
        gate.go.set()
        await cancelling

        assert await one.result() == "first"
        assert await two.status() == "cancelled"
        assert late == []
        assert await accounts(app) == {"first": 1}


@pytest.mark.guarantee("G8")
@pytest.mark.parametrize("begun", [True, False], ids=["running", "waiting"])
async def test_a_call_that_workflow_code_cancels_is_recorded_as_what_happened(
    begun: bool, gate: Gate, url: str
) -> None:
    """A branch fails: the transaction beside it is rolled back, or never begins, and a replay finds it cancelled."""
    app = App()
    beside = Gate()
    created, ready, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
    calls: list[str] = []

    async def wait_and_fail() -> None:
        await stop.wait()
        raise NonRetryableError("no")

    def beside_it(connection: sqlite3.Connection) -> None:
        calls.append("begun")
        beside(connection, "beside")

    @app.workflow
    async def holding(step: Step) -> None:
        await step.transaction("hold", gate, "holding")

    @app.workflow
    async def flow(step: Step) -> str:
        await step.transaction("create", create)
        created.set()
        await ready.wait()
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(wait_and_fail())
                group.create_task(step.transaction("beside", beside_it))
        await step.sleep("nap", "1 hour")
        return "done"

    async with sandbox(app, database=url) as tester:
        execution = await flow.trigger()
        await created.wait()
        if not begun:
            await holding.trigger()
            await until(gate.begun.is_set)
        ready.set()
        if begun:
            await until(beside.begun.is_set)
        else:
            await until(lambda: len(tester.worker.running_steps()) == 2)
        stop.set()
        await asyncio.sleep(0.01)
        beside.go.set()
        gate.go.set()
        await tester.settle()
        await tester.crash()
        await tester.advance("1 hour")

        assert await execution.result() == "done"
        assert (await statuses(execution))["beside"] == "cancelled"
        assert calls == (["begun"] if begun else [])
        assert "beside" not in await accounts(app)


@pytest.mark.guarantee("G4")
async def test_a_worker_that_was_reaped_commits_nothing(gate: Gate, tmp_path: Path) -> None:
    """Its executions were given to others: the function does not even begin."""
    app = App()
    calls: list[str] = []
    file = tmp_path / "shop.db"
    ready = asyncio.Event()

    @app.workflow
    async def flow(step: Step) -> int:
        await step.transaction("create", create)
        await step.run("wait", ready.wait)

        def write(connection: sqlite3.Connection) -> int:
            calls.append(step.execution_id)
            return put(connection, f"a{len(calls)}")

        return await step.transaction("put", write)

    async with sandbox(app, database=f"sqlite:///{file}") as tester:
        execution = await flow.trigger()
        await until(lambda: tester.worker.running_steps())
        with contextlib.closing(sqlite3.connect(file)) as other, other:
            other.execute("UPDATE executions SET epoch = epoch + 1, owner = NULL, status = 'queued', wake_at = 0")
        ready.set()
        await tester.settle()

        assert await execution.result() == 1
        assert await accounts(app) == {"a1": 1}
        assert len(calls) == 1


@pytest.mark.guarantee("G2")
async def test_what_came_before_is_durable_before_the_function_can_commit(gate: Gate, tmp_path: Path) -> None:
    """The end of a wait is written without waiting for it; a transaction that follows must not overtake it."""
    app = App()
    seen: list[str] = []
    ready = asyncio.Event()

    @app.workflow
    async def holding(step: Step) -> None:
        await step.transaction("create", create)
        await step.transaction("hold", gate, "holding")

    @app.workflow
    async def busy(step: Step) -> None:
        await step.run("wait", ready.wait)

    @app.workflow
    async def flow(step: Step) -> None:
        def look(connection: sqlite3.Connection) -> None:
            query = "SELECT status FROM stepwell_steps WHERE execution_id = ? AND path = 'nap'"
            seen.extend(status for (status,) in connection.execute(query, (step.execution_id,)))

        await step.sleep("nap", 2)
        await step.transaction("look", look)

    async with sandbox(app, database=f"sqlite:///{tmp_path / 'shop.db'}") as tester:
        execution = await flow.trigger()
        await tester.settle()
        await busy.trigger()
        await until(tester.worker.running_steps)
        await holding.trigger()
        await until(gate.begun.is_set)
        ready.set()  # its record waits for the writer, and what comes later for the answer
        await until(tester.worker.journal.is_busy)
        tester.clock.move_to(tester.clock.now() + 2_000_000)
        await asyncio.sleep(0.05)
        gate.go.set()

        await execution.result()
        assert seen == ["completed"]


# Undo


def take(connection: sqlite3.Connection, name: str) -> str:
    connection.execute("INSERT INTO accounts VALUES (?, 1)", (name,))
    return name


@pytest.mark.parametrize("crashes", [False, True])
async def test_transaction_is_undone_with_its_result(url: str, crashes: bool, ledger: Ledger) -> None:
    app = App()

    async def give_back(name: str) -> None:
        ledger.append(f"undo {name}")

    @app.workflow
    async def flow(step: Step) -> None:
        await step.transaction("create", create)
        await step.transaction("one", take, "ann", undo=give_back)
        await step.run("two", ledger.note, "two", undo=give_back)
        await step.transaction("three", take, "bob", undo=give_back)
        await step.sleep("wait", "1 minute")
        step.fail("no stock")

    async with sandbox(app, database=url) as t:
        execution = await flow.trigger()
        await t.settle()
        if crashes:
            await t.crash()
        await t.advance("1 minute")

        assert await execution.status() == "failed"
        assert ledger == ["two", "undo bob", "undo two", "undo ann"]
        undone = {step.path for step in await execution.steps() if step.undone}
        assert undone == {"one", "two", "three"}


async def test_transaction_of_a_plain_workflow_is_undone(url: str, ledger: Ledger) -> None:
    app = App()

    def give_back(name: str) -> None:
        ledger.append(f"undo {name}")

    @app.workflow
    def flow(step: SyncStep) -> None:
        step.transaction("create", create)
        step.transaction("one", take, "ann", undo=give_back)
        step.fail("no stock")

    async with sandbox(app, database=url) as t:
        execution = await flow.trigger()
        await t.settle()

        assert await execution.status() == "failed"
        assert ledger == ["undo ann"]
