"""Executions that wait for long leave memory, whatever their code does about it, and reach the right end.

Each shape below is workflow code around a sleep, with the output and the side effects that a plain run would have.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from stepwell import App, Step, SyncStep, Workflow, current_step
from stepwell.clock import from_us
from stepwell.testing import Tester, sandbox
from tests.engine.conftest import Ledger, in_memory, until

pytestmark = pytest.mark.anyio

SHORT = timedelta(seconds=3)
LONG = timedelta(hours=1)


@dataclass(frozen=True)
class Shape:
    """Workflow code around a sleep, what it returns, and the side effects of its steps in order of their names."""

    function: Callable[[Step, Ledger, timedelta], Awaitable[object]]
    output: object
    effects: list[str]

    def define(self, ledger: Ledger, pause: timedelta) -> Workflow[None, object]:
        async def workflow(step: Step) -> object:
            return await self.function(step, ledger, pause)

        return App().workflow(workflow)


@dataclass(frozen=True)
class SyncShape:
    """The same for plain functions."""

    function: Callable[[SyncStep, Ledger, timedelta], object]
    output: object
    effects: list[str]

    def define(self, ledger: Ledger, pause: timedelta) -> Workflow[None, object]:
        def workflow(step: SyncStep) -> object:
            return self.function(step, ledger, pause)

        return App().workflow(workflow)


SHAPES: list[Shape | SyncShape] = []


def shape(output: object, *effects: str) -> Callable[[Callable[[Step, Ledger, timedelta], Awaitable[object]]], None]:
    def add(function: Callable[[Step, Ledger, timedelta], Awaitable[object]]) -> None:
        SHAPES.append(Shape(function, output, sorted(effects)))

    return add


def sync_shape(output: object, *effects: str) -> Callable[[Callable[[SyncStep, Ledger, timedelta], object]], None]:
    def add(function: Callable[[SyncStep, Ledger, timedelta], object]) -> None:
        SHAPES.append(SyncShape(function, output, sorted(effects)))

    return add


# Shapes: async


@shape("end", "before", "after")
async def plain_await(step: Step, ledger: Ledger, pause: timedelta) -> object:
    await step.run("before", ledger.note, "before")
    await step.sleep("nap", pause)
    await step.run("after", ledger.note, "after")
    return "end"


@shape([0, 1, 2], "0", "1", "2")
async def sleeps_in_a_loop(step: Step, ledger: Ledger, pause: timedelta) -> object:
    for number in range(3):
        await step.sleep(pause)
        await step.run(f"note {number}", ledger.note, str(number))
    return [0, 1, 2]


@shape([None, None], "after")
async def gather_of_two(step: Step, ledger: Ledger, pause: timedelta) -> object:
    slept = await asyncio.gather(step.sleep("first", pause), step.sleep("second", 2 * pause))
    await step.run("after", ledger.note, "after")
    return slept


@shape([None, None], "after")
async def gather_with_return_exceptions(step: Step, ledger: Ledger, pause: timedelta) -> object:
    slept = await asyncio.gather(step.sleep("first", pause), step.sleep("second", 2 * pause), return_exceptions=True)
    await step.run("after", ledger.note, "after")
    return slept


@shape("end", "quick", "slow", "after")
async def task_group_with_a_running_branch(step: Step, ledger: Ledger, pause: timedelta) -> object:
    async def slow() -> str:
        await asyncio.sleep(0.01)
        return await ledger.note("slow")

    async with asyncio.TaskGroup() as group:
        group.create_task(step.sleep("nap", pause))
        group.create_task(step.run("quick", ledger.note, "quick"))
        group.create_task(step.run("slow", slow))
    await step.run("after", ledger.note, "after")
    return "end"


@shape("end")
async def except_star(step: Step, ledger: Ledger, pause: timedelta) -> object:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(step.sleep("nap", pause))
            group.create_task(step.sleep("nap 2", pause))
    except* asyncio.CancelledError:
        await step.run("never", ledger.note, "never")
    except* RuntimeError:
        await step.run("never", ledger.note, "never")
    return "end"


@shape("end", "after")
async def longer_timeout(step: Step, ledger: Ledger, pause: timedelta) -> object:
    async with asyncio.timeout(100_000):
        await step.sleep("nap", pause)
    await step.run("after", ledger.note, "after")
    return "end"


@shape("end", "after")
async def wait_for(step: Step, ledger: Ledger, pause: timedelta) -> object:
    await asyncio.wait_for(step.sleep("nap", pause), timeout=100_000)
    await step.run("after", ledger.note, "after")
    return "end"


@shape("end", "before", "after")
async def sleeping_task_that_is_awaited_later(step: Step, ledger: Ledger, pause: timedelta) -> object:
    task = asyncio.create_task(step.sleep("nap", pause))
    await step.run("before", ledger.note, "before")
    await task
    await step.run("after", ledger.note, "after")
    return "end"


@shape("end", "after")
async def shield(step: Step, ledger: Ledger, pause: timedelta) -> object:
    await asyncio.shield(step.sleep("nap", pause))
    await step.run("after", ledger.note, "after")
    return "end"


@shape("first", "after")
async def wait_for_first_completed(step: Step, ledger: Ledger, pause: timedelta) -> object:
    first = asyncio.create_task(step.sleep("first", pause))
    second = asyncio.create_task(step.sleep("second", 10 * pause))
    done, pending = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await step.run("after", ledger.note, "after")
    return "first" if done == {first} else "other"


@shape("end", "after")
async def sleeping_orphan(step: Step, ledger: Ledger, pause: timedelta) -> object:
    orphan = asyncio.create_task(step.sleep("orphan", 10 * pause))
    await step.sleep("nap", pause)
    await step.run("after", ledger.note, "after")
    return "end" if not orphan.done() else "orphan ended"


@shape("end", "orphan", "after")
async def running_orphan(step: Step, ledger: Ledger, pause: timedelta) -> object:
    async def slow() -> str:
        await asyncio.sleep(0.01)
        return await ledger.note("orphan")

    orphan = asyncio.create_task(step.run("orphan", slow))
    await step.sleep("nap", pause)
    await step.run("after", ledger.note, "after")
    return "end" if orphan.done() else "orphan runs"


@shape("end")
async def except_exception(step: Step, ledger: Ledger, pause: timedelta) -> object:
    try:
        await step.sleep("nap", pause)
    except Exception:
        await step.run("never", ledger.note, "never")
        return "caught"
    return "end"


@shape("end", "after")
async def swallowed_cancellation(step: Step, ledger: Ledger, pause: timedelta) -> object:
    with contextlib.suppress(asyncio.CancelledError):
        await step.sleep("nap", pause)
    await step.run("after", ledger.note, "after")
    return "end"


@shape("end")
async def return_from_except(step: Step, ledger: Ledger, pause: timedelta) -> object:
    try:
        await step.sleep("nap", pause)
    except BaseException:
        return "x"
    return "end"


@shape("end")
async def raise_from_except(step: Step, ledger: Ledger, pause: timedelta) -> object:
    try:
        await step.sleep("nap", pause)
    except BaseException:
        raise RuntimeError("of the user") from None
    return "end"


@shape("end", "cleanup")
async def step_in_finally(step: Step, ledger: Ledger, pause: timedelta) -> object:
    try:
        await step.sleep("nap", pause)
    finally:
        await asyncio.sleep(0.01)
        await step.run("cleanup", ledger.note, "cleanup")
    return "end"


@shape([0, 1], "0", "1", "cleanup")
async def async_generator(step: Step, ledger: Ledger, pause: timedelta) -> object:
    async def ticks() -> AsyncGenerator[int]:
        try:
            for number in range(2):
                await step.sleep(f"tick {number}", pause)
                yield number
        finally:
            await step.run("cleanup", ledger.note, "cleanup")

    seen: list[int] = []
    async for number in ticks():
        await step.run(f"note {number}", ledger.note, str(number))
        seen.append(number)
    return seen


@shape("end", "enter", "exit")
async def async_context_manager(step: Step, ledger: Ledger, pause: timedelta) -> object:
    @contextlib.asynccontextmanager
    async def connection() -> AsyncGenerator[None]:
        await step.run("enter", ledger.note, "enter")
        try:
            yield
        finally:
            await step.run("exit", ledger.note, "exit")

    async with connection():
        await step.sleep("nap", pause)
    return "end"


@shape("end", "after")
async def anyio_cancel_scope(step: Step, ledger: Ledger, pause: timedelta) -> object:
    with anyio.move_on_after(100_000) as scope:
        await step.sleep("nap", pause)
    await step.run("after", ledger.note, "after")
    return "cancelled" if scope.cancelled_caught else "end"


@shape("end", "branch", "after")
async def anyio_task_group(step: Step, ledger: Ledger, pause: timedelta) -> object:
    async def branch() -> None:
        await step.run("branch", ledger.note, "branch")
        await step.sleep("second", 2 * pause)

    async with anyio.create_task_group() as group:
        group.start_soon(step.sleep, "first", pause)
        group.start_soon(branch)
    await step.run("after", ledger.note, "after")
    return "end"


@shape("end", "permit 0", "permit 1")
async def semaphore(step: Step, ledger: Ledger, pause: timedelta) -> object:
    one_at_a_time = asyncio.Semaphore(1)

    async def branch(number: int) -> None:
        async with one_at_a_time:
            await step.sleep(f"nap {number}", pause)
            await step.run(f"note {number}", ledger.note, f"permit {number}")

    await asyncio.gather(branch(0), branch(1))
    return "end"


@shape([0, 1], "0", "1")
async def queue(step: Step, ledger: Ledger, pause: timedelta) -> object:
    queue: asyncio.Queue[int | None] = asyncio.Queue()

    async def produce() -> None:
        for number in range(2):
            await step.sleep(f"nap {number}", pause)
            queue.put_nowait(number)
        queue.put_nowait(None)

    producer = asyncio.create_task(produce())
    seen: list[int] = []
    while (item := await queue.get()) is not None:
        await step.run(f"note {item}", ledger.note, str(item))
        seen.append(item)
    await producer
    return seen


@shape("end", "inner", "after")
async def sleep_in_a_body(step: Step, ledger: Ledger, pause: timedelta) -> object:
    async def outer() -> str:
        await step.run("inner", ledger.note, "inner")
        await step.sleep("nap", pause)
        await step.run("after", ledger.note, "after")
        return f"attempt {current_step().attempt}"

    assert await step.run("outer", outer) == "attempt 1"
    return "end"


@shape("end", "inner", "after")
async def sleep_in_a_thread_body(step: Step, ledger: Ledger, pause: timedelta) -> object:
    def outer() -> str:
        here = current_step(SyncStep)
        here.run("inner", ledger.note_in_thread, "inner")
        here.sleep("nap", pause)
        here.run("after", ledger.note_in_thread, "after")
        return f"attempt {here.attempt}"

    assert await step.run("outer", outer) == "attempt 1"
    return "end"


@shape("end", "0", "1")
async def as_completed(step: Step, ledger: Ledger, pause: timedelta) -> object:
    async def branch(number: int) -> int:
        await step.sleep(f"nap {number}", (number + 1) * pause)
        return number

    for done in asyncio.as_completed([branch(0), branch(1)]):
        number = await done
        await step.run(f"note {number}", ledger.note, str(number))
    return "end"


@shape("end", "after")
async def two_waits_on_one_name(step: Step, ledger: Ledger, pause: timedelta) -> object:
    await asyncio.gather(step.sleep("nap", pause), step.sleep("nap", pause))
    await asyncio.gather(step.run("after", ledger.note, "after"), step.run("after", ledger.note, "after"))
    return "end"


@shape(["a", "b"], "a", "b")
async def two_sleeping_bodies(step: Step, ledger: Ledger, pause: timedelta) -> object:
    async def body(name: str, pause: timedelta) -> str:
        await step.sleep("nap", pause)
        return await step.run("note", ledger.note, name)

    return await asyncio.gather(step.run("a", body, "a", pause), step.run("b", body, "b", 2 * pause))


@shape("end", "inner", "beside")
async def sleeping_body_beside_a_sleep(step: Step, ledger: Ledger, pause: timedelta) -> object:
    async def body() -> None:
        await step.sleep("nap", pause)
        await step.run("inner", ledger.note, "inner")

    async def beside() -> None:
        await step.sleep("beside", pause)
        await step.run("note beside", ledger.note, "beside")

    async with asyncio.TaskGroup() as group:
        group.create_task(step.run("body", body))
        group.create_task(beside())
    return "end"


@shape("end", "late")
async def raw_await_beside_a_sleep(step: Step, ledger: Ledger, pause: timedelta) -> object:
    async def branch() -> None:
        await asyncio.sleep(0.01)
        await step.run("late", ledger.note, "late")

    await asyncio.gather(step.sleep("nap", pause), branch())
    return "end"


@shape("RuntimeError", "failing", "after")
async def failing_branch_after_a_sleep(step: Step, ledger: Ledger, pause: timedelta) -> object:
    async def failing() -> None:
        await step.sleep("first", pause)
        await step.run("failing", ledger.note, "failing")
        raise RuntimeError("of the user")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(step.sleep("second", 2 * pause))
            group.create_task(failing())
    except* RuntimeError:
        await step.run("after", ledger.note, "after")
    return "RuntimeError"


@shape("end", "block", "after")
async def within(step: Step, ledger: Ledger, pause: timedelta) -> object:
    async def block() -> str:
        await step.sleep("nap", pause)
        return await step.run("block", ledger.note, "block")

    assert await step.within("limit", 10 * pause, block()) == "block"
    await step.run("after", ledger.note, "after")
    return "end"


@shape(("short", "short"), "short")
async def race(step: Step, ledger: Ledger, pause: timedelta) -> object:
    async def branch(name: str, pause: timedelta) -> str:
        await step.sleep(name, pause)
        return await step.run(f"note {name}", ledger.note, name)

    return await step.race("first", short=branch("short", pause), long=branch("long", 10 * pause))


# Shapes: sync


@sync_shape("end", "before", "after")
def sync_plain(step: SyncStep, ledger: Ledger, pause: timedelta) -> object:
    step.run("before", ledger.note_in_thread, "before")
    step.sleep("nap", pause)
    step.run("after", ledger.note, "after")
    return "end"


@sync_shape("end")
def sync_except_exception(step: SyncStep, ledger: Ledger, pause: timedelta) -> object:
    try:
        step.sleep("nap", pause)
    except Exception:
        step.run("never", ledger.note, "never")
        return "caught"
    return "end"


@sync_shape("end", "after")
def sync_swallowed_cancellation(step: SyncStep, ledger: Ledger, pause: timedelta) -> object:
    with contextlib.suppress(BaseException):
        step.sleep("nap", pause)
    step.run("after", ledger.note_in_thread, "after")
    return "end"


@sync_shape("end")
def sync_return_from_except(step: SyncStep, ledger: Ledger, pause: timedelta) -> object:
    try:
        step.sleep("nap", pause)
    except BaseException:
        return "x"
    return "end"


@sync_shape("end")
def sync_raise_from_except(step: SyncStep, ledger: Ledger, pause: timedelta) -> object:
    try:
        step.sleep("nap", pause)
    except BaseException:
        raise RuntimeError("of the user") from None
    return "end"


@sync_shape("end", "cleanup")
def sync_step_in_finally(step: SyncStep, ledger: Ledger, pause: timedelta) -> object:
    try:
        step.sleep("nap", pause)
    finally:
        time.sleep(0.01)
        step.run("cleanup", ledger.note_in_thread, "cleanup")
    return "end"


@sync_shape([0, 1], "0", "1", "cleanup")
def sync_generator(step: SyncStep, ledger: Ledger, pause: timedelta) -> object:
    def ticks() -> Generator[int]:
        try:
            for number in range(2):
                step.sleep(f"tick {number}", pause)
                yield number
        finally:
            step.run("cleanup", ledger.note_in_thread, "cleanup")

    seen: list[int] = []
    for number in ticks():
        step.run(f"note {number}", ledger.note_in_thread, str(number))
        seen.append(number)
    return seen


@sync_shape("end", "enter", "exit")
def sync_context_manager(step: SyncStep, ledger: Ledger, pause: timedelta) -> object:
    @contextlib.contextmanager
    def connection() -> Generator[None]:
        step.run("enter", ledger.note_in_thread, "enter")
        try:
            yield
        finally:
            step.run("exit", ledger.note_in_thread, "exit")

    with connection():
        step.sleep("nap", pause)
    return "end"


@sync_shape("end", "inner", "after")
def sync_sleep_in_a_body(step: SyncStep, ledger: Ledger, pause: timedelta) -> object:
    def outer() -> str:
        step.run("inner", ledger.note_in_thread, "inner")
        step.sleep("nap", pause)
        step.run("after", ledger.note_in_thread, "after")
        return f"attempt {step.attempt}"

    assert step.run("outer", outer) == "attempt 1"
    return "end"


@sync_shape("end", "branch", "after")
def sync_threads(step: SyncStep, ledger: Ledger, pause: timedelta) -> object:
    def nap() -> None:
        step.sleep("nap", pause)

    def branch() -> None:
        step.run("branch", ledger.note_in_thread, "branch")

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(step.carry(nap)), pool.submit(step.carry(branch))]
    for future in futures:
        future.result()
    step.run("after", ledger.note_in_thread, "after")
    return "end"


@sync_shape("end", "block", "after")
def sync_within(step: SyncStep, ledger: Ledger, pause: timedelta) -> object:
    def block() -> str:
        step.sleep("nap", pause)
        return step.run("block", ledger.note_in_thread, "block")

    assert step.within("limit", 10 * pause, block) == "block"
    step.run("after", ledger.note_in_thread, "after")
    return "end"


@sync_shape(("short", "short"), "short")
def sync_race(step: SyncStep, ledger: Ledger, pause: timedelta) -> object:
    def branch(name: str, pause: timedelta) -> str:
        step.sleep(name, pause)
        return step.run(f"note {name}", ledger.note_in_thread, name)

    return step.race("first", short=lambda: branch("short", pause), long=lambda: branch("long", 10 * pause))


async def parked(t: Tester, *ids: str) -> None:
    """Wait until these executions have left memory."""
    await t.settle()
    await until(lambda: not in_memory(t).intersection(ids))
    await t.settle()


every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.function.__name__)


def same(output: object, expected: object) -> bool:
    """Equal but for tuples, which come back as lists where no annotation says otherwise."""
    return output == expected or (isinstance(expected, tuple) and output == [*expected])


@every_shape
async def test_short_wait_stays_in_memory(shape: Shape | SyncShape, ledger: Ledger) -> None:
    workflow = shape.define(ledger, SHORT)

    async with sandbox(workflow.app) as t:
        execution = await workflow.trigger()
        await t.settle()
        assert in_memory(t) == {execution.id}

        await t.advance("1 minute")
        assert same(await execution.result(5), shape.output)

    assert sorted(ledger) == shape.effects


@pytest.mark.parity("P4.3")
@pytest.mark.guarantee("G3")
@pytest.mark.usefixtures("short_grace")
@every_shape
async def test_long_wait_leaves_memory_and_reaches_the_same_end(shape: Shape | SyncShape, ledger: Ledger) -> None:
    workflow = shape.define(ledger, LONG)

    async with sandbox(workflow.app) as t:
        execution = await workflow.trigger()
        await parked(t, execution.id)
        info = await execution.info()
        assert (info.status, info.wake_at) == ("sleeping", info.created_at + LONG)

        await t.advance("1 day")
        assert same(await execution.result(5), shape.output)

    assert sorted(ledger) == shape.effects


@pytest.mark.guarantee("G1")
@every_shape
async def test_crash_during_a_short_wait_changes_nothing(shape: Shape | SyncShape, ledger: Ledger) -> None:
    workflow = shape.define(ledger, SHORT)

    async with sandbox(workflow.app) as t:
        execution = await workflow.trigger()
        await t.settle()
        for _ in range(3):
            await t.crash()
            await t.settle()

        await t.advance("1 minute")
        assert same(await execution.result(5), shape.output)

    assert sorted(ledger) == shape.effects


@pytest.mark.guarantee("G1")
@every_shape
async def test_restart_during_a_long_wait_changes_nothing(
    shape: Shape | SyncShape, ledger: Ledger, tmp_path: Path
) -> None:
    workflow, database = shape.define(ledger, LONG), f"sqlite:///{tmp_path / 'test.db'}"

    async with sandbox(workflow.app, database=database) as t:
        execution = await workflow.trigger()
        await t.settle()
        start = t.clock.now()
    async with sandbox(workflow.app, database=database, start=from_us(start) + LONG / 2) as t:
        await t.advance("1 day")
        assert same(await workflow.get_execution(execution.id).result(5), shape.output)

    assert sorted(ledger) == shape.effects


async def test_function_that_waits_leaves_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell._engine.resting.PARK_GRACE_SECONDS", 1_000)
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.sleep("nap", "1 hour")

    async with sandbox(app) as t:
        executions = [await workflow.trigger() for _ in range(50)]
        await t.settle()
        assert in_memory(t) == set()

        await t.advance("1 hour")
        assert [await execution.status() for execution in executions] == ["completed"] * 50


async def test_branch_goes_on_while_another_sleeps_for_long(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        async def branch() -> None:
            for number in range(3):
                await step.run(f"note {number}", ledger.note, str(number))

        await asyncio.gather(step.sleep("nap", "1 hour"), branch())

    async with sandbox(app) as t:
        await workflow.trigger()
        await t.settle()

        assert ledger == ["0", "1", "2"]


async def test_task_goes_on_while_the_function_sleeps_for_long(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        async def branch() -> None:
            for number in range(3):
                await step.run(f"note {number}", ledger.note, str(number))

        task = asyncio.create_task(branch())
        await step.sleep("nap", "1 hour")
        await task

    async with sandbox(app) as t:
        await workflow.trigger()
        await t.settle()

        assert ledger == ["0", "1", "2"]


@pytest.mark.usefixtures("short_grace")
async def test_body_that_runs_keeps_the_execution_in_memory() -> None:
    app, may_end = App(), asyncio.Event()

    @app.workflow
    async def workflow(step: Step) -> None:
        await asyncio.gather(step.sleep("nap", "1 hour"), step.run("busy", may_end.wait))

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: execution.id in in_memory(t))
        await asyncio.sleep(0.05)
        assert in_memory(t) == {execution.id}

        may_end.set()
        await parked(t, execution.id)


@pytest.mark.usefixtures("short_grace")
async def test_body_whose_branches_all_wait_leaves_memory(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def body() -> str:
            await asyncio.gather(step.sleep("nap", "1 hour"), step.run("note", ledger.note, "note"))
            return f"attempt {current_step().attempt}"

        return await step.run("body", body)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: bool(ledger))
        await until(lambda: not in_memory(t))

        await t.advance("1 hour")
        assert await execution.result(5) == "attempt 1"

    assert ledger == ["note"]


@pytest.mark.usefixtures("short_grace")
async def test_raw_await_longer_than_the_grace_is_awaited_again(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        async def branch() -> None:
            ledger.append("entered")
            await asyncio.sleep(0.2)
            await step.run("late", ledger.note, "late")

        await asyncio.gather(step.sleep("nap", "1 hour"), branch())

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await parked(t, execution.id)
        assert ledger == ["entered"]

        await t.advance("1 hour")
        await execution.result(5)

    assert ledger == ["entered", "entered", "late"]


async def test_shorter_timeout_never_fires_around_a_long_sleep(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        try:
            async with asyncio.timeout(0.05):
                await step.sleep("nap", "1 hour")
        except TimeoutError:
            return "timeout"
        await step.run("after", ledger.note, "after")
        return "slept"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await parked(t, execution.id)
        await asyncio.sleep(0.06)
        await t.advance("1 hour")

        assert await execution.result(5) == "slept"

    assert ledger == ["after"]


async def test_branch_that_fails_while_another_sleeps_fails_the_execution_then() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        async def branch() -> None:
            await step.sleep("short", "30 minutes")
            raise RuntimeError("of the user")

        await asyncio.gather(step.sleep("long", "1 hour"), branch())

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("30 minutes")

        info = await execution.info()
        assert (info.status, info.finished_at) == ("failed", info.created_at + timedelta(minutes=30))
        assert info.error is not None
        assert info.error.message == "of the user"


async def test_body_that_sleeps_is_entered_again_as_the_same_attempt(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        async def body() -> None:
            ledger.append(f"attempt {step.attempt}")
            await step.run("inner", ledger.note, "inner")
            await step.sleep("nap", "1 hour")

        await step.run("body", body)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        assert in_memory(t) == set()
        await t.advance("1 hour")

        [body, *_] = await execution.steps()
        assert (body.path, body.status, body.attempt, body.attempts) == ("body", "completed", 1, ())

    assert ledger == ["attempt 1", "inner", "attempt 1"]


@pytest.mark.usefixtures("short_unwinding")
async def test_finally_that_hangs_is_abandoned(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    app, entered = App(), [0]

    @app.workflow
    async def workflow(step: Step) -> str:
        entered[0] += 1
        try:
            await step.sleep("nap", "1 hour")
        finally:
            if entered[0] == 1:
                await asyncio.Event().wait()
        await step.run("after", ledger.note, "after")
        return "end"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await parked(t, execution.id)
        assert "abandoned" in caplog.text

        await t.advance("1 hour")
        assert await execution.result(5) == "end"

    assert ledger == ["after"]


@pytest.mark.usefixtures("short_unwinding")
async def test_code_that_swallows_everything_neither_spins_nor_holds_up_others(ledger: Ledger) -> None:
    app, over, caught = App(), asyncio.Event(), [0]

    @app.workflow
    async def stubborn(step: Step) -> str:
        while not over.is_set():
            try:
                await step.sleep("nap", "1 hour")
                await step.run("after", ledger.note, "after")
                return "end"
            except BaseException:
                caught[0] += 1
        return "over"

    @app.workflow
    async def neighbour(step: Step) -> str:
        return await step.run("note", ledger.note, "neighbour")

    async with sandbox(app) as t:
        execution = await stubborn.trigger()
        await until(lambda: caught[0] > 0)
        assert await (await neighbour.trigger()).result(5) == "neighbour"
        await parked(t, execution.id)
        assert caught[0] <= 101

        await t.advance("1 hour")
        assert await execution.result(5) == "end"
        over.set()

    assert ledger == ["neighbour", "after"]


@pytest.mark.usefixtures("short_unwinding")
async def test_thread_that_swallows_everything_neither_spins_nor_holds_up_others(ledger: Ledger) -> None:
    app, over, caught = App(), threading.Event(), [0]

    @app.workflow
    def stubborn(step: SyncStep) -> str:
        while not over.is_set():
            try:
                step.sleep("nap", "1 hour")
                step.run("after", ledger.note_in_thread, "after")
                return "end"
            except BaseException:
                caught[0] += 1
        return "over"

    @app.workflow
    def neighbour(step: SyncStep) -> str:
        return step.run("note", ledger.note_in_thread, "neighbour")

    async with sandbox(app) as t:
        execution = await stubborn.trigger()
        try:
            await until(lambda: caught[0] > 0)
            assert await (await neighbour.trigger()).result(5) == "neighbour"
            await parked(t, execution.id)
            await asyncio.sleep(0.1)
            assert caught[0] <= 110

            await t.advance("1 hour")
            assert await execution.result(5) == "end"
        finally:
            over.set()

    assert ledger == ["neighbour", "after"]


async def test_thread_has_unwound_before_its_execution_leaves_memory() -> None:
    app, unwinding, may_end = App(), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    @app.workflow
    def workflow(step: SyncStep) -> None:
        try:
            step.sleep("nap", "1 hour")
        except BaseException:
            loop.call_soon_threadsafe(unwinding.set)
            may_end.wait(10)
            raise

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        try:
            await asyncio.wait_for(unwinding.wait(), 5)
            await asyncio.sleep(0.05)
            assert in_memory(t) == {execution.id}
        finally:
            may_end.set()
        await parked(t, execution.id)

        await t.advance("1 hour")
        await execution.result(5)
