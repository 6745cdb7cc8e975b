"""`executor=`: bodies in processes of our own, and in executors of the user's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    App,
    ExecutionCancelledError,
    ExecutionFailedError,
    InvalidInputError,
    NoStepContextError,
    ProcessDiedError,
    RetryPolicy,
    SerializationError,
    Step,
    StepFailedError,
    StepTimeoutError,
    SyncStep,
    Workflow,
    WorkflowCodeError,
)
from stepwell._engine import processes
from stepwell.testing import sandbox
from tests.engine import far
from tests.engine.conftest import until
from tests.engine.far import Point

pytestmark = pytest.mark.anyio

AT_ONCE = RetryPolicy(retries=3, delay=0)


def flow_of(app: App, fn: Callable[..., Any], *args: Any, **options: Any) -> Workflow[None, Any]:
    """A workflow of one step, whose error can be seen twice: live, and after a nap of an hour."""

    @app.workflow(name=f"flow-{len(app.workflows)}")
    async def flow(step: Step) -> Any:
        run: Any = step.run
        return await run("far", fn, *args, **{"executor": "process", **options})

    return flow


async def error_of(app: App, fn: Callable[..., Any], *args: Any, **options: Any) -> BaseException:
    """The error of a step without retries, the same live and on replay."""
    raised: list[BaseException] = []

    @app.workflow(name=f"failing-{len(app.workflows)}")
    async def flow(step: Step) -> None:
        try:
            run: Any = step.run
            await run("far", fn, *args, **{"executor": "process", "retries": 0, **options})
        except Exception as error:
            # Its traceback would keep the execution in memory.
            raised.append(error.with_traceback(None))
        await step.sleep("nap", "1 hour")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        async with asyncio.timeout(10):
            while not raised:  # noqa: ASYNC110 - another process is at work
                await asyncio.sleep(0.005)
        await t.advance("1 hour")
        await execution.result(5)
    live, replayed = raised
    assert type(live) is type(replayed)
    assert str(live) == str(replayed)
    return live


def marks(folder: Path) -> list[int]:
    """The processes that left a mark, in order."""
    found = [path.name.split("-") for path in folder.iterdir() if path.is_file()]
    return [int(pid) for pid, at in sorted(found, key=lambda parts: parts[1]) if at.isdigit()]


async def first_mark(folder: Path, count: int = 1) -> int:
    async with asyncio.timeout(10):
        while len(marks(folder)) < count:  # noqa: ASYNC110 - another process leaves it
            await asyncio.sleep(0.005)
    return marks(folder)[count - 1]


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (ProcessLookupError, FileNotFoundError):
        return True


# ------------------------------------------------------------------------------------- processes: values and facts


async def test_bodies_run_in_one_process_after_the_other_and_it_is_ours() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return [
            await step.run("one", far.pid, executor="process"),
            await step.run("two", far.async_pid, executor="process"),
            await step.run("three", far.parent, executor="process"),
        ]

    async with sandbox(app):
        first, second, parent = await (await flow.trigger()).result(10)

    assert first == second != parent == os.getpid()
    assert is_gone(first)


async def test_plain_workflows_and_do_take_processes_too() -> None:
    app = App()

    @app.workflow
    def flow(step: SyncStep) -> Point:
        assert step.run("pid", far.pid, executor="process") != os.getpid()
        return step.do("move", executor="process")(far.move)(Point(1, 2), by=3)

    async with sandbox(app):
        assert await (await flow.trigger()).result(10) == Point(4, 5)


async def test_values_travel_and_come_back_as_annotated() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> Point:
        return await step.run("move", functools.partial(far.move, by=3), Point(1, 2), executor="process")

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result(10) == Point(4, 5)
        assert (await execution.steps())[0].output == {"x": 4, "y": 5}


async def test_large_values_travel() -> None:
    app = App()
    flow = flow_of(app, far.length, b"x" * 3_000_000)

    async with sandbox(app):
        assert await (await flow.trigger()).result(10) == 3_000_000


@pytest.mark.parametrize("body", [far.facts, far.async_facts], ids=["plain", "async"])
async def test_current_step_tells_the_facts_of_the_worker(body: Callable[..., Any]) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> list[dict[str, Any]]:
        return [await step.run("f", body, executor="process"), await step.run("f ", far.facts)]

    async with sandbox(app):
        execution = await flow.trigger()
        there, here = await execution.result(10)

    assert there["idempotency_key"] == f"{execution.id}/f/1"
    for of_the_step in ("path", "idempotency_key", "uuid", "random"):
        assert there.pop(of_the_step) != here.pop(of_the_step)
    assert there == here
    assert there["execution_id"] == execution.id


@pytest.mark.parametrize("body", [far.nested_step, far.nested_sync_step, far.nested_sleep, far.resources])
async def test_verbs_in_a_process_are_refused_and_not_tried_again(body: Callable[..., Any]) -> None:
    error = await error_of(App(), body, retries=AT_ONCE)

    assert isinstance(error, WorkflowCodeError)
    assert "'far'" in str(error)
    assert "facts only" in str(error)


# ------------------------------------------------------------------------------------------ processes: what is refused


def replaced() -> int:
    return 1


original, replaced = replaced, lambda: 2


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: lambda: 1, "lambda"),
        (lambda: functools.partial(lambda: 1), "lambda"),
        (lambda: _local(), "inside another function"),
        (lambda: original, "is not this function"),
    ],
    ids=["lambda", "partial", "local", "replaced"],
)
async def test_functions_that_cannot_be_imported_are_refused_at_once(make: Callable[[], Any], problem: str) -> None:
    app = App()
    flow = flow_of(app, make(), retries=AT_ONCE)

    async with sandbox(app):
        execution = await flow.trigger()
        with pytest.raises(ExecutionFailedError) as caught:
            await execution.result(5)
        assert await execution.steps() == []

    assert isinstance(caught.value.__cause__, TypeError)
    assert problem in str(caught.value)
    assert "executor='process'" in str(caught.value)


def _local() -> Callable[[], int]:
    def inside() -> int:
        return 1

    return inside


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize("executor", ["processes", 4, object()])
async def test_unknown_executors_are_refused(executor: Any) -> None:
    app = App()
    flow = flow_of(app, far.pid, executor=executor)

    async with sandbox(app):
        with pytest.raises(ExecutionFailedError, match="must be 'thread', 'process' or") as caught:
            await (await flow.trigger()).result(5)
    assert isinstance(caught.value.__cause__, InvalidInputError)


@pytest.mark.parametrize("processes", [0, -1, True, "2", 1.5])
def test_a_bad_number_of_processes_is_refused(processes: Any) -> None:
    with pytest.raises(InvalidInputError, match="processes must be a positive whole number"):
        App(processes=processes)


async def test_arguments_that_cannot_travel_are_an_error_that_is_not_tried_again() -> None:
    error = await error_of(App(), far.nothing, threading.Lock(), retries=AT_ONCE)

    assert isinstance(error, SerializationError)
    assert "'far'" in str(error)
    assert "cannot pickle '_thread.lock' object" in str(error)


async def test_arguments_that_cannot_be_loaded_there_are_an_error_that_is_not_tried_again() -> None:
    error = await error_of(App(), far.nothing, far.Unloadable(), retries=AT_ONCE)

    assert isinstance(error, WorkflowCodeError)
    assert "RuntimeError: exploded" in str(error)


async def test_results_that_cannot_travel_are_an_error_that_is_not_tried_again() -> None:
    error = await error_of(App(), far.lock, retries=AT_ONCE)

    assert isinstance(error, SerializationError)
    assert "result of step 'far'" in str(error)


# ----------------------------------------------------------------------------------------------- processes: errors


async def test_errors_come_as_they_were_raised_with_the_place() -> None:
    app, asked = App(), list[type[Exception]]()

    def retry_if(error: Exception) -> bool:
        asked.append(type(error))
        return False

    error = await error_of(app, far.value_error, retries=3, retry_if=retry_if)

    assert isinstance(error, ValueError)
    assert error.args == ("of the body", 7)
    assert "in value_error" in str(error.__cause__)
    assert asked == [ValueError]


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (far.picky_error, far.PickyError, "402 declined"),
        (far.unpicklable_error, far.UnpicklableError, "holds a lock"),
        (far.final_error, far.FinalError, "no more"),
    ],
)
async def test_errors_that_pickle_badly_come_too(body: Callable[..., Any], kind: type, says: str) -> None:
    error = await error_of(App(), body)

    assert type(error) is kind or isinstance(error, StepFailedError)
    assert says in str(error)


async def test_leaving_by_sys_exit_is_a_failed_attempt() -> None:
    error = await error_of(App(), far.leave, 3)

    assert isinstance(error, StepFailedError)
    assert error.error_type == "SystemExit"


async def test_failed_attempts_are_tried_again(tmp_path: Path) -> None:
    app = App()
    flow = flow_of(app, far.fail_once, str(tmp_path), retries=AT_ONCE)

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result(10) == "done"
        assert [attempt.error.type for attempt in (await execution.steps())[0].attempts] == ["ConnectionError"]


@pytest.mark.parametrize(
    ("body", "exit_code", "says"),
    [
        (far.kill_yourself, -signal.SIGKILL, "SIGKILL, perhaps by the system for want of memory"),
        (far.crash_hard, -signal.SIGSEGV, "SIGSEGV"),
        (functools.partial(os._exit, 3), 3, "exited with code 3"),
    ],
    ids=["killed", "segfault", "exit"],
)
async def test_a_process_that_dies_is_a_failed_attempt(body: Callable[..., Any], exit_code: int, says: str) -> None:
    error = await error_of(App(), body)

    assert isinstance(error, ProcessDiedError)
    assert (error.path, error.exit_code) == ("far", exit_code)
    assert says in str(error)


async def test_a_process_that_died_is_replaced_for_the_next_attempt(tmp_path: Path) -> None:
    app = App(processes=1)
    flow = flow_of(app, far.exit_the_first_time, str(tmp_path), retries=AT_ONCE)

    async with sandbox(app):
        assert await (await flow.trigger()).result(10) == "done"


async def test_a_process_that_died_while_idle_costs_no_attempt() -> None:
    app = App(processes=1)
    flow = flow_of(app, far.pid, retries=0)

    async with sandbox(app):
        first = await (await flow.trigger()).result(10)
        os.kill(first, signal.SIGKILL)
        # Its other thread, too, for that holds the connection open.
        await until(lambda: is_gone(first) and len(list(Path(f"/proc/{first}/task").iterdir())) == 1)
        assert await (await flow.trigger()).result(10) != first


# ------------------------------------------------------------------------------------- processes: timeout and cancel


@pytest.mark.parametrize("body", [far.hang, far.spin])
async def test_a_timeout_kills_the_process(tmp_path: Path, body: Callable[..., Any]) -> None:
    app = App()
    flow = flow_of(app, body, str(tmp_path), timeout="1 minute", retries=0)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        pid = await first_mark(tmp_path)
        t.clock.move_to(t.clock.now() + 60_000_000)
        with pytest.raises(ExecutionFailedError) as caught:
            await execution.result(5)
        await until(lambda: is_gone(pid))
    assert isinstance(caught.value.__cause__, StepTimeoutError)
    assert caught.value.__cause__.seconds == 60


async def test_after_a_timeout_the_next_attempt_has_a_process(tmp_path: Path) -> None:
    app = App(processes=1)
    flow = flow_of(app, far.hang_the_first_time, str(tmp_path), timeout="1 minute", retries=AT_ONCE)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await first_mark(tmp_path)
        t.clock.move_to(t.clock.now() + 60_000_000)
        assert await execution.result(10) == "done"


async def test_waiting_for_a_process_is_no_part_of_the_timeout(tmp_path: Path) -> None:
    app = App(processes=1)
    long = flow_of(app, far.wait_for, str(tmp_path), "go")
    short = flow_of(app, far.pid, timeout="1 minute", retries=0)

    async with sandbox(app) as t:
        first = await long.trigger()
        pid = await first_mark(tmp_path)
        second = await short.trigger()
        await t.advance("1 hour")
        (tmp_path / "go").touch()
        assert await first.result(10) == await second.result(10) == pid


@pytest.mark.guarantee("G8")
async def test_cancel_kills_the_process_and_what_the_body_started(tmp_path: Path) -> None:
    app = App()
    flow = flow_of(app, far.hang_with_a_helper, str(tmp_path))

    async with sandbox(app):
        execution = await flow.trigger()
        pid = await first_mark(tmp_path)
        [helper] = [int(path.name.partition("-")[0]) for path in tmp_path.glob("*-helper")]
        await execution.cancel()
        with pytest.raises(ExecutionCancelledError):
            await execution.result(5)
        await until(lambda: is_gone(pid) and is_gone(helper))


@pytest.mark.guarantee("G8")
async def test_a_body_that_is_cancelled_while_it_waits_for_a_process_never_runs(tmp_path: Path) -> None:
    app = App(processes=1)
    long = flow_of(app, far.wait_for, str(tmp_path), "go")
    never = tmp_path / "never"
    never.mkdir()
    waiting, last = flow_of(app, far.mark, str(never)), flow_of(app, far.pid)

    async with sandbox(app):
        first = await long.trigger()
        await first_mark(tmp_path)
        second = await waiting.trigger()
        await until(lambda: len(_bodies(app)) == 2)
        await second.cancel()
        with pytest.raises(ExecutionCancelledError):
            await second.result(5)
        (tmp_path / "go").touch()
        await first.result(10)
        assert await (await last.trigger()).result(10) > 0
    assert marks(never) == []


def _bodies(app: App) -> list[str]:
    worker: Any = app.client.worker
    return worker.running_steps()


async def test_what_a_body_forks_can_be_ended_by_signals() -> None:
    """The process of a body is deaf to SIGTERM; a pool that the body makes must not be."""
    app = App()
    flow = flow_of(app, far.fork_and_terminate)

    async with sandbox(app):
        assert await (await flow.trigger()).result(10) == -signal.SIGTERM


async def test_the_loser_of_a_race_is_killed(tmp_path: Path) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        async def soon() -> None:
            await step.run("wait", first_mark, tmp_path)

        winner, _ = await step.race(
            "race", hanging=step.run("far", far.hang, str(tmp_path), executor="process"), soon=soon()
        )
        return winner

    async with sandbox(app):
        assert await (await flow.trigger()).result(10) == "soon"
        [pid] = marks(tmp_path)
        await until(lambda: is_gone(pid))


async def test_a_crash_kills_the_process_and_the_body_runs_again(tmp_path: Path) -> None:
    app = App()
    flow = flow_of(app, far.hang_the_first_time, str(tmp_path), retries=0)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        pid = await first_mark(tmp_path)
        await t.crash()
        assert await execution.result(10) == "done"
        await until(lambda: is_gone(pid))


async def test_leaving_ends_busy_and_idle_processes(tmp_path: Path) -> None:
    app = App(processes=2)
    busy, idle = flow_of(app, far.hang, str(tmp_path)), flow_of(app, far.pid)

    async with sandbox(app):
        await busy.trigger()
        pid = await first_mark(tmp_path)
        other = await (await idle.trigger()).result(10)

    assert is_gone(pid)
    assert is_gone(other)
    assert not [thread for thread in threading.enumerate() if thread.name == "stepwell-process"]


# --------------------------------------------------------------------------------------------- processes: how many


async def test_processes_are_started_on_demand_up_to_the_limit(tmp_path: Path) -> None:
    app = App(processes=2)

    @app.workflow
    async def flow(step: Step) -> list[int]:
        bodies = [step.run(f"{n}", far.wait_for, str(tmp_path), "go", executor="process") for n in range(5)]
        return await asyncio.gather(*bodies)

    async with sandbox(app):
        execution = await flow.trigger()
        await first_mark(tmp_path, 2)
        await asyncio.sleep(0.1)
        assert len(marks(tmp_path)) == 2, "no third one"
        (tmp_path / "go").touch()
        pids = await execution.result(10)

    assert len(set(pids)) == 2


async def test_idle_processes_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "IDLE_SECONDS", 0.05)
    app = App()
    flow = flow_of(app, far.pid)

    async with sandbox(app):
        first = await (await flow.trigger()).result(10)
        await until(lambda: is_gone(first))
        assert await (await flow.trigger()).result(10) != first


async def test_a_stub_stands_in_for_a_body_in_a_process() -> None:
    app = App()
    flow = flow_of(app, far.pid)

    async with sandbox(app) as t:
        t.stub("far", returns=-1)
        assert await (await flow.trigger()).result(5) == -1


# ------------------------------------------------------------------------------------------- executors of the user's


@pytest.fixture
def process_pool() -> Any:
    import multiprocessing

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool
    gc.collect()


async def test_a_process_pool_runs_plain_and_async_bodies(process_pool: ProcessPoolExecutor) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return [
            await step.run("one", far.pid, executor=process_pool),
            await step.run("two", far.async_pid, executor=process_pool),
        ]

    async with sandbox(app):
        one, two = await (await flow.trigger()).result(10)
    assert one == two != os.getpid()


async def test_a_broken_process_pool_fails_the_attempt(process_pool: ProcessPoolExecutor) -> None:
    error = await error_of(App(), far.kill_yourself, executor=process_pool)

    assert type(error) is BrokenExecutor
    assert "The executor of step 'far' is broken" in str(error)
    assert "executor='process'" in str(error)


@pytest.mark.parametrize("body", [far.no_context, far.nested_step])
async def test_the_step_context_does_not_reach_a_foreign_executor(body: Callable[..., Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        error = await error_of(App(), body, executor=pool, retries=AT_ONCE)

    assert isinstance(error, NoStepContextError)


async def test_an_async_body_runs_in_a_loop_of_its_own_in_a_thread_pool() -> None:
    app, here = App(), asyncio.get_running_loop()

    async def body() -> bool:
        await asyncio.sleep(0)
        return asyncio.get_running_loop() is not here and threading.current_thread().name.startswith("mine")

    with ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
        flow = flow_of(app, body, executor=pool)
        async with sandbox(app):
            assert await (await flow.trigger()).result(5)


async def test_a_timeout_drops_what_a_foreign_executor_gives_later() -> None:
    app, release, ended = App(), threading.Event(), threading.Event()
    started: list[int] = []

    def body() -> str:
        started.append(1)
        if len(started) == 1:
            release.wait(10)
            ended.set()
            return "late"
        return "second"

    with ThreadPoolExecutor(2) as pool:
        flow = flow_of(app, body, executor=pool, timeout="1 minute", retries=AT_ONCE)
        async with sandbox(app) as t:
            execution = await flow.trigger()
            await until(lambda: started)
            t.clock.move_to(t.clock.now() + 60_000_000)
            await until(lambda: len(started) == 2)
            release.set()
            assert await execution.result(5) == "second"
            await asyncio.to_thread(ended.wait, 5)
            await t.settle()
            assert (await execution.steps())[0].output == "second"


@pytest.mark.guarantee("G8")
async def test_cancel_drops_what_waits_in_a_foreign_executor() -> None:
    app, release, ran = App(), threading.Event(), list[str]()

    def body(name: str) -> None:
        ran.append(name)
        release.wait(10)

    with ThreadPoolExecutor(1) as pool:
        running, waiting = flow_of(app, body, "running", executor=pool), flow_of(app, body, "waiting", executor=pool)
        async with sandbox(app):
            first = await running.trigger()
            await until(lambda: ran)
            second = await waiting.trigger()
            await until(lambda: len(_bodies(app)) == 2)
            for execution in (second, first):
                await execution.cancel()
                with pytest.raises(ExecutionCancelledError):
                    await execution.result(5)
            release.set()
    assert ran == ["running"]


async def test_an_executor_that_was_shut_down_fails_the_attempt() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    error = await error_of(App(), far.pid, executor=pool)

    assert isinstance(error, RuntimeError)
    assert "after shutdown" in str(error)


async def test_equal_calls_are_not_the_same_call_to_an_executor_that_shares_results() -> None:
    """As Dask does, which takes calls that look the same for one."""

    class Sharing(concurrent.futures.Executor):
        def __init__(self) -> None:
            self.keys: list[str] = []

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
            self.keys.append(fn.key)
            future: concurrent.futures.Future[Any] = concurrent.futures.Future()
            future.set_exception(ConnectionError("again"))
            return future

    app, executor = App(), Sharing()
    flow = flow_of(app, far.pid, executor=executor, retries=AT_ONCE)
    async with sandbox(app):
        with pytest.raises(ExecutionFailedError):
            await (await flow.trigger()).result(5)
    assert len(set(executor.keys)) == 4
