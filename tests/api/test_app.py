"""`App`: definitions, databases, opening and closing, resources, and the doors for code without an event loop."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import (
    App,
    ConfigError,
    ExecutionFailedError,
    RetryPolicy,
    SchemaVersionError,
    Step,
    StoreUnavailableError,
    SyncStep,
    Workflow,
)
from stepwell.errors import InvalidInputError, WorkflowCodeError
from stepwell.testing import sandbox
from tests.api.conftest import Order, open_client

SOURCES = Path(stepwell.__file__).parents[1]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has an empty current folder and no settings in its environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("STEPWELL_DATABASE", "STEPWELL_APP", "STEPWELL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


# ------------------------------------------------------------------------------------------------- definitions


async def nothing(step: Step) -> None: ...


def test_a_workflow_is_named_as_its_function_unless_it_says_otherwise() -> None:
    app = App()

    plain = app.workflow(nothing)
    named = app.workflow("named")(nothing)
    by_keyword = app.workflow(name="Shop:v1.order_2-b")(nothing)

    assert [workflow.name for workflow in (plain, named, by_keyword)] == ["nothing", "named", "Shop:v1.order_2-b"]
    assert dict(app.workflows) == {workflow.name: workflow for workflow in (plain, named, by_keyword)}


def test_two_workflows_with_one_name_are_refused() -> None:
    app = App()
    app.workflow(nothing)

    with pytest.raises(
        InvalidInputError, match=r"Workflow 'nothing' is defined already, by .*Give one of them another name"
    ):
        app.workflow(nothing)


def test_two_apps_may_use_one_name() -> None:
    assert App().workflow(nothing).name == App().workflow(nothing).name


@pytest.mark.parametrize("name", [" ", "a b", "a/b", "ä", "x" * 129, "a\n", 5])
def test_bad_workflow_names_are_refused(name: Any) -> None:
    with pytest.raises(InvalidInputError, match="A workflow name must be 1 to 128 characters of A-Z a-z 0-9"):
        App().workflow(name=name)(nothing)


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(InvalidInputError, match="'<lambda>'"):
        App().workflow()(lambda step: None)


async def no_step() -> None: ...
async def two_inputs(step: Step, a: int, b: int) -> None: ...
async def with_default(step: Step, order: Order | None = None) -> None: ...
async def var_args(step: Step, *orders: Order) -> None: ...
async def var_kwargs(step: Step, **orders: Order) -> None: ...
async def positional_env(step: Step, order: Order, env: object) -> None: ...
async def other_keyword(step: Step, *, db: object) -> None: ...
async def env_and_more(step: Step, *, env: object, db: object) -> None: ...


@pytest.mark.parametrize(
    "function", [no_step, two_inputs, var_args, var_kwargs, positional_env, other_keyword, env_and_more]
)
def test_wrong_signatures_are_refused_with_what_is_allowed(function: Callable[..., Any]) -> None:
    with pytest.raises(
        InvalidInputError, match=r"must take \(step\) or \(step, input\), and optionally a keyword-only env"
    ) as refused:
        App().workflow(function)

    assert repr(function.__name__) in str(refused.value)
    assert "it takes (" in str(refused.value)


def test_a_default_on_the_input_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"Parameter 'order' of 'with_default' has a default. Take it out"):
        App().workflow(with_default)


async def error_only(step: Step) -> None: ...
async def error_and_more(step: Step, order: Order, error: BaseException, more: int) -> None: ...


@pytest.mark.parametrize("handler", [error_only, error_and_more])
def test_wrong_signatures_of_on_error_are_refused(handler: Callable[..., Any]) -> None:
    workflow = App().workflow(nothing)

    with pytest.raises(
        InvalidInputError, match=r"'nothing.on_error' must take \(step, error\) or \(step, input, error\)"
    ):
        workflow.on_error(handler)


def test_a_workflow_has_one_on_error() -> None:
    workflow = App().workflow(nothing)

    @workflow.on_error
    async def first(step: Step, error: BaseException) -> None: ...

    with pytest.raises(InvalidInputError, match="Workflow 'nothing' has an on_error function already"):

        @workflow.on_error
        async def second(step: Step, error: BaseException) -> None: ...


def test_a_workflow_keeps_its_function_and_documentation() -> None:
    async def documented(step: Step) -> None:
        """Ships an order."""

    workflow = App("shop").workflow(documented)

    assert workflow.function is documented
    assert workflow.__doc__ == "Ships an order."
    assert repr(workflow) == "<Workflow 'documented' of 'shop'>"


@pytest.mark.anyio
async def test_annotations_may_name_later_classes() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, parcel: Parcel) -> Parcel:
        return parcel

    async with sandbox(app):
        assert await (await flow.trigger(Parcel(5))).result() == Parcel(5)


@dataclass
class Parcel:
    weight: int


# ------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("retries", [-1, True, 1.5, "3"])
def test_bad_retries_are_refused_wherever_they_are_set(retries: Any) -> None:
    message = re.escape(f"retries must be a whole number, 0 or more, got {retries!r}")

    with pytest.raises(InvalidInputError, match=message):
        App(retries=retries)
    with pytest.raises(InvalidInputError, match=message):
        App().workflow(retries=retries)
    with pytest.raises(InvalidInputError, match=message):
        RetryPolicy(retries=retries)


@pytest.mark.anyio
@pytest.mark.parametrize("retries", [-1, True, 1.5, "3"])
async def test_bad_retries_of_a_step_fail_the_execution_before_its_body_runs(retries: Any) -> None:
    app, runs = App(), list[str]()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("work", runs.append, "ran", retries=retries)

    async with sandbox(app):
        with pytest.raises(ExecutionFailedError, match=f"retries must be a whole number, 0 or more, got {retries!r}"):
            await (await flow.trigger()).result()

    assert runs == []


@pytest.mark.parametrize("timeout", [0, -5, "soon", True])
def test_bad_timeouts_of_a_workflow_are_refused(timeout: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^timeout must "):
        App().workflow(timeout=timeout)


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, "64", None])
def test_threads_must_be_a_positive_whole_number(threads: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"threads must be a positive whole number, got {threads!r}"):
        App(threads=threads)


@pytest.mark.anyio
@pytest.mark.parametrize("concurrency", [0, -1, True, 1.5, "8", None])
async def test_concurrency_must_be_a_positive_whole_number(concurrency: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"concurrency must be a positive whole number, got {concurrency!r}"):
        async with App(database="sqlite://").running(concurrency=concurrency):
            pass


@pytest.mark.anyio
async def test_a_bad_drain_timeout_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="drain_timeout must not be negative, got -1"):
        async with App(database="sqlite://").running(drain_timeout=-1):
            pass


@pytest.mark.parametrize("limit", [1024, "1 KiB", "2 KB", "1 MiB", "500 kb", "3 GiB", " 1  MiB ", "2000 B"])
def test_payload_limits_are_bytes_or_text(limit: Any) -> None:
    App(payload_limit=limit)


@pytest.mark.parametrize("limit", [0, -1, 1023, "1 KB", "0 MiB", "", "5", "many", "1 TB", "-1 MiB", True, None, 1.5])
def test_bad_payload_limits_are_refused(limit: Any) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(f"got {limit!r}")) as refused:
        App(payload_limit=limit)

    assert str(refused.value).startswith("payload_limit must be ")


# ------------------------------------------------------------------------------------------------- which database


def test_the_default_database_is_beside_the_program(own_folder: Path) -> None:
    assert App().database == f"sqlite:///{own_folder}/.stepwell/stepwell.db"


@pytest.mark.anyio
async def test_the_full_path_is_logged_at_start(own_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="stepwell")

    async with App().connected():
        pass

    assert f"{own_folder}/.stepwell/stepwell.db" in caplog.text
    assert (own_folder / ".stepwell/stepwell.db").stat().st_mode & 0o777 == 0o600


def test_a_given_database_is_relative_to_the_current_folder(own_folder: Path) -> None:
    assert App(database="sqlite:///data/app.db").database == f"sqlite:///{own_folder}/data/app.db"
    assert App(database="sqlite:////var/app.db").database == "sqlite:////var/app.db"
    assert App(database="sqlite://").database == "sqlite://"


def test_the_database_of_the_config_is_relative_to_its_file(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_folder / "stepwell.toml").write_text('database = "sqlite:///data/app.db"\n')
    below = own_folder / "src/shop"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)

    assert App().database == f"sqlite:///{own_folder}/data/app.db"
    assert App(config=own_folder).database == f"sqlite:///{own_folder}/data/app.db"


def test_the_default_database_is_beside_the_config(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_folder / "stepwell.toml").write_text("")
    below = own_folder / "src"
    below.mkdir()
    monkeypatch.chdir(below)

    assert App().database == f"sqlite:///{own_folder}/.stepwell/stepwell.db"


def test_the_database_may_stand_in_pyproject(own_folder: Path) -> None:
    (own_folder / "pyproject.toml").write_text('[tool.stepwell]\ndatabase = "sqlite:///app.db"\n')

    assert App().database == f"sqlite:///{own_folder}/app.db"


def test_code_wins_over_environment_over_file(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_folder / "stepwell.toml").write_text('database = "sqlite:///file.db"\n')
    assert App().database.endswith("/file.db")

    monkeypatch.setenv("STEPWELL_DATABASE", "sqlite:///environment.db")
    assert App().database.endswith("/environment.db")
    assert App(database="sqlite:///code.db").database.endswith("/code.db")


def test_use_database_wins_over_everything(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWELL_DATABASE", "sqlite:///environment.db")
    app = App(database="sqlite:///code.db")

    app.use_database("sqlite:///used.db")

    assert app.database == f"sqlite:///{own_folder}/used.db"


@pytest.mark.parametrize(
    "url", ["", "app.db", "mysql://host/db", "sqlite:app.db", "sqlite://app.db", "sqlite:///", "http://x"]
)
def test_unknown_urls_are_refused_with_what_is_allowed(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sqlite:///relative/path.db") as refused:
        _ = App(database=url).database

    assert repr(url) in str(refused.value)


def test_postgresql_says_that_it_is_not_there_yet() -> None:
    with pytest.raises(ConfigError, match="PostgreSQL is not available in this release"):
        _ = App(database="postgresql://user:secret@host/db").database


def test_passwords_are_not_shown() -> None:
    with pytest.raises(ConfigError) as refused:
        _ = App(database="mysql://user:secret@host/db").database

    assert "secret" not in str(refused.value)


def make_directory(path: Path) -> None:
    path.mkdir()


def make_garbage(path: Path) -> None:
    path.write_bytes(b"this is not a database, but long enough to have a header" * 100)


def make_file_above(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("a file where a folder should be")


@pytest.mark.anyio
@pytest.mark.parametrize("spoil", [make_directory, make_garbage, make_file_above])
async def test_what_cannot_be_opened_is_refused_with_its_path(own_folder: Path, spoil: Callable[[Path], None]) -> None:
    path = own_folder / "data/app.db"
    path.parent.mkdir()
    spoil(path)
    app = App(database=f"sqlite:///{path}")

    with pytest.raises(StoreUnavailableError, match=re.escape(str(path))) as refused:
        async with app.connected():
            pass

    assert refused.value.database == f"sqlite:///{path}"
    app.use_database("sqlite://")
    async with app.connected():
        pass


@pytest.mark.anyio
async def test_a_database_of_a_newer_release_is_refused(own_folder: Path) -> None:
    app = App(database="sqlite:///app.db")
    async with app.connected():
        pass
    with sqlite3.connect(own_folder / "app.db") as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(schema_version)")]
        values = ["99" if name == "version" else name for name in columns]
        connection.execute(f"INSERT INTO schema_version SELECT {', '.join(values)} FROM schema_version LIMIT 1")
    connection.close()

    with pytest.raises(SchemaVersionError, match=r"is version 99; this release needs .*Upgrade stepwell") as refused:
        async with app.connected():
            pass

    assert refused.value.found == 99


# ------------------------------------------------------------------------------------------------- open and closed


@pytest.mark.anyio
async def test_an_app_is_opened_once() -> None:
    app = App("shop")

    async with open_client(app):
        with pytest.raises(ConfigError, match="App 'shop' is open already"):
            async with app.running():
                pass
        assert (await app.list_executions()).executions == []


@pytest.mark.anyio
async def test_an_app_may_be_opened_again_later() -> None:
    app = App(database="sqlite:///app.db")
    flow = app.workflow(nothing)

    async with app.connected():
        execution = await flow.trigger(id="A-1")
    async with app.running():
        await flow.get_execution("A-1").result()
    async with app.connected():
        assert await flow.get_execution("A-1").status() == "completed"
    with pytest.raises(ConfigError):
        flow.get_execution(execution.id)


@pytest.mark.anyio
@pytest.mark.parametrize("call", ["trigger", "trigger_many", "get_execution", "cancel", "list_executions"])
async def test_a_closed_app_says_how_to_open_it(call: str) -> None:
    flow = App("shop").workflow(nothing)
    arguments: dict[str, list[Any]] = {"trigger_many": [[None]], "get_execution": ["A-1"], "cancel": ["A-1"]}

    with pytest.raises(ConfigError, match=r"App 'shop' is not open. Use `async with app.running.*connected.*_sync"):
        await getattr(flow, call)(*arguments.get(call, []))


@pytest.mark.anyio
async def test_the_database_cannot_be_changed_while_open() -> None:
    app = App()

    async with open_client(app):
        with pytest.raises(ConfigError, match="cannot be changed while the app is open"):
            app.use_database("sqlite:///other.db")


@pytest.mark.anyio
async def test_connected_runs_nothing() -> None:
    app = App()
    flow = app.workflow(nothing)

    async with open_client(app):
        execution = await flow.trigger()
        await asyncio.sleep(0.05)
        assert await execution.status() == "queued"


@pytest.mark.anyio
async def test_an_error_inside_running_is_passed_on_and_the_app_is_closed() -> None:
    app = App(database="sqlite://")

    with pytest.raises(KeyError):
        async with app.running():
            raise KeyError("mine")
    async with app.running():
        pass


@pytest.mark.anyio
async def test_leaving_gives_back_what_has_not_ended_and_another_worker_ends_it() -> None:
    app, runs, started = App(database="sqlite:///app.db"), list[str](), asyncio.Event()

    async def work() -> str:
        runs.append("run")
        started.set()
        if len(runs) == 1:
            await asyncio.Event().wait()
        return "done"

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("work", work)

    async with app.running(drain_timeout=0):
        await flow.trigger(id="A-1")
        await started.wait()
    async with app.running():
        assert await flow.get_execution("A-1").result(timeout=5) == "done"

    assert runs == ["run", "run"]


# ------------------------------------------------------------------------------------------------- execute


def test_execute_gives_the_output_with_its_type() -> None:
    app = App(database="sqlite://")

    @app.workflow
    async def flow(step: Step, order: Order) -> Order:
        return Order(order.id, await step.run("double", lambda: order.total * 2))

    assert app.execute(flow, Order("a", 1)) == Order("a", 2)
    assert app.execute(flow, Order("b", 2)) == Order("b", 4)


def test_execute_of_a_plain_function() -> None:
    app = App(database="sqlite://")

    @app.workflow
    def flow(step: SyncStep) -> int:
        return step.run("one", lambda: 1) + step.run("two", lambda: 2)

    assert app.execute(flow) == 3


def test_execute_raises_what_the_execution_raised() -> None:
    app = App(database="sqlite://", retries=0)

    @app.workflow
    async def flow(step: Step) -> None:
        raise ValueError("card declined")

    with pytest.raises(ExecutionFailedError, match="card declined") as failed:
        app.execute(flow)

    assert isinstance(failed.value.__cause__, ValueError)


def test_execute_refuses_bad_input() -> None:
    app = App(database="sqlite://")

    @app.workflow
    async def flow(step: Step, order: Order) -> None: ...

    with pytest.raises(InvalidInputError):
        app.execute(flow, "order")  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.anyio
async def test_execute_inside_an_event_loop_says_what_to_await() -> None:
    app = App(database="sqlite://")
    flow = app.workflow(nothing)

    with pytest.raises(WorkflowCodeError, match=r"app.execute\(\) blocks .*nothing.trigger"):
        app.execute(flow)


# ------------------------------------------------------------------------------------------------- resources


def with_resources(events: list[str]) -> tuple[App, Workflow[None, str]]:
    """An app with the resources `db` and `http`, which note when they open and close."""
    app = App(database="sqlite://", retries=0)

    @app.resource
    async def db() -> AsyncGenerator[str]:
        events.append("open db")
        try:
            yield "connection"
        finally:
            events.append("close db")

    @app.resource
    @asynccontextmanager
    async def http() -> AsyncGenerator[str]:
        events.append("open http")
        try:
            yield "session"
        finally:
            events.append("close http")

    @app.workflow
    async def flow(step: Step, *, env: Any) -> str:
        events.append("run")
        return f"{env.db} {step.env.http}"

    return app, flow


ORDER = ["open db", "open http", "run", "close http", "close db"]


@pytest.mark.anyio
async def test_resources_open_in_order_once_and_close_in_reverse() -> None:
    events: list[str] = []
    app, flow = with_resources(events)

    async with app.running():
        assert await (await flow.trigger()).result() == "connection session"

    assert events == ORDER


@pytest.mark.anyio
async def test_resources_close_when_the_program_fails() -> None:
    events: list[str] = []
    app, flow = with_resources(events)

    async def program() -> None:
        async with app.running():
            await (await flow.trigger()).result()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await program()
    assert events == ORDER


@pytest.mark.anyio
async def test_resources_stay_open_until_running_bodies_have_ended() -> None:
    events, started = list[str](), asyncio.Event()
    app, _ = with_resources(events)

    async def work() -> None:
        events.append("body begins")
        started.set()
        await asyncio.sleep(0.05)
        events.append("body ends")

    @app.workflow
    async def slow(step: Step) -> None:
        await step.run("work", work)

    async with app.running():
        await slow.trigger()
        await started.wait()

    assert events[2:] == ["body begins", "body ends", "close http", "close db"]


@pytest.mark.anyio
async def test_a_resource_that_cannot_open_closes_the_others_and_the_app() -> None:
    events: list[str] = []
    app, _ = with_resources(events)
    broken = True

    @app.resource
    async def queue() -> AsyncGenerator[str]:
        if broken:
            raise OSError("no route to host")
        yield "queue"

    with pytest.raises(OSError, match="no route to host"):
        async with app.running():
            pass
    assert events == ["open db", "open http", "close http", "close db"]
    broken = False
    async with app.running():
        pass


@pytest.mark.anyio
async def test_a_client_opens_no_resources() -> None:
    events: list[str] = []
    app, _ = with_resources(events)

    async with app.connected():
        pass

    assert events == []


@pytest.mark.anyio
async def test_an_unknown_resource_names_the_known_ones() -> None:
    app, _ = with_resources([])

    @app.workflow
    async def wrong(step: Step, *, env: Any) -> str:
        return env.mailer

    async with app.running():
        with pytest.raises(ExecutionFailedError, match=r"env has no 'mailer' \(known: db, http\)") as failed:
            await (await wrong.trigger()).result()

    assert isinstance(failed.value.__cause__, AttributeError)


def test_two_resources_with_one_name_are_refused() -> None:
    app, _ = with_resources([])

    with pytest.raises(InvalidInputError, match="Resource 'db' is defined already"):

        @app.resource
        async def db() -> AsyncGenerator[str]:
            yield "another"


def test_a_nameless_resource_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="A resource must be a named function, got"):
        App().resource(lambda: None)


# ------------------------------------------------------------------------------------------------- without a loop


@pytest.mark.anyio
async def test_sync_methods_work_in_a_thread_while_the_loop_runs_here() -> None:
    app = App(database="sqlite://")

    @app.workflow
    async def flow(step: Step, number: int) -> int:
        return number * 2

    def script() -> list[object]:
        execution = flow.trigger_sync(4, id="A-1", tags=["t"])
        many = flow.trigger_many_sync([1, 2])
        page = flow.list_executions_sync(tags=["t"])
        return [
            execution.result_sync(timeout=5),
            [one.result_sync() for one in many],
            execution.status_sync(),
            execution.info_sync().input,
            flow.get_execution_sync("A-1") == execution,
            [info.id for info in page.executions],
        ]

    async with app.running():
        assert await asyncio.to_thread(script) == [8, [2, 4], "completed", 4, True, ["A-1"]]


@pytest.mark.anyio
async def test_sync_cancels_work_in_a_thread() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.sleep("nap", "1 day")

    async with sandbox(app):
        first, second = await flow.trigger(), await flow.trigger()
        await asyncio.to_thread(first.cancel_sync, "enough")
        await asyncio.to_thread(flow.cancel_sync, second.id, "enough")

        assert [(await one.info()).reason for one in (first, second)] == ["enough", "enough"]


@pytest.mark.anyio
async def test_sync_methods_raise_the_same_errors() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, number: int) -> int:
        raise ValueError("no")

    async with sandbox(app):
        with pytest.raises(InvalidInputError):
            await asyncio.to_thread(flow.trigger_sync, "four")  # pyright: ignore[reportArgumentType]
        with pytest.raises(ExecutionFailedError, match="no"):
            await asyncio.to_thread(lambda: flow.trigger_sync(4).result_sync())


@pytest.mark.anyio
async def test_sync_methods_inside_an_event_loop_name_the_async_ones() -> None:
    app = App()
    flow = app.workflow(nothing)

    async with open_client(app):
        execution = await flow.trigger()
        for call, name in [
            (flow.trigger_sync, "nothing.trigger_sync"),
            (lambda: flow.list_executions_sync(), "nothing.list_executions_sync"),
            (lambda: flow.get_execution_sync("A-1"), "nothing.get_execution_sync"),
            (execution.result_sync, "_sync"),
            (execution.status_sync, "_sync"),
        ]:
            with pytest.raises(WorkflowCodeError, match=f"{name}.* blocks and was called inside an event loop"):
                call()


@pytest.mark.anyio
async def test_plain_workflow_code_must_not_trigger_outside_of_steps() -> None:
    app = App(retries=0)
    other = app.workflow(nothing)

    @app.workflow
    def flow(step: SyncStep) -> str:
        started = step.run("start", lambda: other.trigger_sync().id)
        try:
            other.trigger_sync()
        except WorkflowCodeError as error:
            return f"{started} {error}"
        return "nothing was raised"

    async with sandbox(app):
        output = await (await flow.trigger()).result()

        assert re.match("t-[a-z2-7]{26} .*trigger.* was called in workflow code", output)
        assert len((await other.list_executions()).executions) == 1


def run_script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(textwrap.dedent(text))
    return subprocess.run(
        [sys.executable, "-W", "error", "script.py"],
        cwd=folder,
        env={"PYTHONPATH": str(SOURCES), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


def test_a_script_without_a_loop_triggers_and_looks(own_folder: Path) -> None:
    done = run_script(
        own_folder,
        """
        from stepwell import App, Step

        app = App()

        @app.workflow
        async def flow(step: Step, number: int) -> int:
            return number

        execution = flow.trigger_sync(5, id="A-1")
        print(execution.status_sync(), flow.get_execution_sync("A-1").info_sync().input)
        """,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "queued 5\n", "")


def test_a_script_that_connects_first_by_get_execution(own_folder: Path) -> None:
    done = run_script(
        own_folder,
        """
        from stepwell import App, ExecutionNotFoundError, Step

        app = App()

        @app.workflow
        async def flow(step: Step) -> None: ...

        try:
            flow.get_execution_sync("A-1").status_sync()
        except ExecutionNotFoundError as error:
            print(error.code, [info.id for info in flow.list_executions_sync().executions])
        """,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "execution_not_found []\n", "")


def test_a_script_whose_database_cannot_be_opened_gets_the_error_each_time(own_folder: Path) -> None:
    done = run_script(
        own_folder,
        """
        from stepwell import App, StoreUnavailableError, Step

        app = App(database="sqlite:///.")

        @app.workflow
        async def flow(step: Step) -> None: ...

        for _ in range(2):
            try:
                flow.trigger_sync()
            except StoreUnavailableError as error:
                print(error.code)
        """,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "store_unavailable\n" * 2, "")
