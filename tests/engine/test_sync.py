"""Plain functions: workflows in threads of their own, bodies where DESIGN says they run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from stepwell import App, Step, SyncStep, current_step
from stepwell.errors import NoStepContextError, WorkflowCodeError
from stepwell.testing import sandbox
from tests.engine.conftest import Ledger, until

pytestmark = pytest.mark.anyio


async def test_sync_workflow_runs_in_a_thread_and_its_sync_bodies_in_the_same() -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> list[int]:
        return [threading.get_ident(), step.run("body", threading.get_ident), step.run("other", threading.get_ident)]

    async with sandbox(app):
        own, body, other = await (await workflow.trigger()).result(5)

    assert own == body == other != threading.get_ident()


async def test_async_bodies_of_a_sync_workflow_run_in_the_event_loop() -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> int:
        async def body() -> int:
            await asyncio.sleep(0)
            return threading.get_ident()

        return step.run("body", body)

    async with sandbox(app):
        assert await (await workflow.trigger()).result(5) == threading.get_ident()


async def test_executor_thread_takes_a_sync_body_elsewhere() -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> bool:
        return step.run("body", threading.get_ident, executor="thread") != threading.get_ident()

    async with sandbox(app):
        assert await (await workflow.trigger()).result(5)


async def test_own_executor_is_used_in_both_kinds_of_workflow() -> None:
    app = App()

    def name() -> str:
        return threading.current_thread().name

    with ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:

        @app.workflow
        def plain(step: SyncStep) -> str:
            return step.run("body", name, executor=pool)

        @app.workflow
        async def other(step: Step) -> str:
            return await step.run("body", name, executor=pool)

        async with sandbox(app):
            assert await (await plain.trigger()).result(5) == "mine_0"
            assert await (await other.trigger()).result(5) == "mine_0"


async def test_nested_steps_have_paths_and_run_in_the_same_thread(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> bool:
        def inner() -> int:
            ledger.append(step.path)
            return threading.get_ident()

        def outer() -> int:
            return step.run("inner", inner)

        return step.run("outer", outer) == threading.get_ident()

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        assert await execution.result(5)
        await t.settle()
        assert [step.path for step in await execution.steps()] == ["outer", "outer/inner"]

    assert ledger == ["outer/inner"]


async def test_do_decorates_plain_functions(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep, number: int) -> int:
        @step.do("double", retries=1)
        def double(value: int, *, extra: int = 0) -> int:
            ledger.append(f"attempt {step.attempt}")
            if step.attempt == 1:
                raise RuntimeError("once")
            return 2 * value + extra

        return double(number, extra=1)

    async with sandbox(app) as t:
        execution = await workflow.trigger(4)
        await t.advance("1 minute")
        assert await execution.result(5) == 9

    assert ledger == ["attempt 1", "attempt 2"]


async def test_errors_of_bodies_reach_the_plain_function_live_and_on_replay(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> str:
        def failing() -> None:
            ledger.append("failing")
            raise KeyError("of the user")

        try:
            step.run("failing", failing, retries=0)
        except KeyError as error:
            step.sleep("nap", "1 hour")
            return repr(error)
        return "no error"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("1 hour")
        assert await execution.result(5) == "KeyError('of the user')"

    assert ledger == ["failing"]


# Threads of the user's own


@pytest.mark.parametrize("pause", ["3 seconds", "1 hour"])
async def test_carried_calls_run_in_parallel_threads(pause: str, ledger: Ledger) -> None:
    app, both = App(), threading.Barrier(2)

    def meet(number: int) -> int:
        both.wait(5)
        ledger.append(str(number))
        return number

    @app.workflow
    def workflow(step: SyncStep) -> int:
        def branch(number: int) -> int:
            return step.run(f"branch {number}", meet, number)

        with ThreadPoolExecutor(2) as pool:
            total = sum(pool.map(step.carry(branch), [1, 2]))
        step.sleep("nap", pause)
        return total

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: len(ledger) == 2)
        await t.advance("1 hour")

        assert await execution.result(5) == 3

    assert sorted(ledger) == ["1", "2"]


async def test_carried_body_runs_in_the_thread_that_calls() -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> bool:
        def branch() -> bool:
            return step.run("body", threading.get_ident) == threading.get_ident()

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(step.carry(branch)).result()

    async with sandbox(app):
        assert await (await workflow.trigger()).result(5)


async def test_carry_takes_the_scope_of_the_step_along() -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> None:
        def outer() -> None:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(step.carry(lambda: step.run("inner", threading.get_ident))).result()

        step.run("outer", outer)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await execution.result(5)
        await t.settle()
        assert [step.path for step in await execution.steps()] == ["outer", "outer/inner"]


async def test_carried_function_keeps_its_arguments_result_and_error() -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> list[str]:
        def join(first: str, *, second: str) -> str:
            if not second:
                raise KeyError(first)
            return first + second

        carried = step.carry(join)
        with ThreadPoolExecutor(1) as pool:
            value = pool.submit(carried, "a", second="b").result()
            error = pool.submit(carried, "a", second="").exception()
        return [value, repr(error), carried.__name__]

    async with sandbox(app):
        assert await (await workflow.trigger()).result(5) == ["ab", "KeyError('a')", "join"]


async def test_thread_without_the_context_is_refused(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> list[str]:
        def branch() -> str:
            try:
                return step.run("note", ledger.note_in_thread, "note")
            except NoStepContextError as error:
                return str(error)

        with ThreadPoolExecutor(1) as pool:
            return [pool.submit(branch).result(), pool.submit(lambda: _message(step.sleep, 1)).result()]

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        run, sleep = await execution.result(5)
        assert "step.run" in run
        assert "step.carry" in run
        assert "step.sleep" in sleep
        await t.settle()
        assert await execution.steps() == []

    assert ledger == []


def _message(call: Callable[..., object], *args: object) -> str:
    try:
        return f"{call(*args)!r}"
    except WorkflowCodeError as error:
        return str(error)


async def test_sync_verb_in_the_event_loop_is_refused() -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> list[str]:
        async def body() -> list[str]:
            return [
                _message(step.run, "inner", threading.get_ident),
                _message(step.sleep, "nap", 1),
                _message(step.now, "now"),
            ]

        return step.run("body", body)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        messages = await execution.result(5)
        assert [message.split()[0] for message in messages] == ["step.run", "step.sleep", "step.now"]
        assert all("event loop" in message for message in messages)
        await t.settle()
        assert [step.path for step in await execution.steps()] == ["body"]


async def test_facts_are_there_in_threads() -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> list[object]:
        def body() -> list[object]:
            here = current_step()
            return [here.execution_id == step.execution_id, here.path, here.attempt, here.run_number]

        return [step.path, *step.run("body", body)]

    async with sandbox(app):
        assert await (await workflow.trigger()).result(5) == ["", True, "body", 1, 1]


# Many


async def test_forty_sync_workflows_with_blocking_bodies_run_at_once() -> None:
    app, all_of_them = App(), threading.Barrier(40)

    @app.workflow
    def workflow(step: SyncStep) -> int:
        step.run("first", all_of_them.wait, 10, returns=int)
        return step.run("second", all_of_them.wait, 10, returns=int)

    async with sandbox(app):
        executions = await workflow.trigger_many([None] * 40)
        numbers = [await execution.result(15) for execution in executions]

    assert sorted(numbers) == list(range(40))


async def test_sync_bodies_of_async_workflows_share_64_threads() -> None:
    app, all_of_them = App(), threading.Barrier(64)

    @app.workflow
    async def workflow(step: Step) -> int:
        return await step.run("meet", all_of_them.wait, 10, returns=int)

    async with sandbox(app):
        executions = await workflow.trigger_many([None] * 64)
        numbers = [await execution.result(15) for execution in executions]

    assert sorted(numbers) == list(range(64))


async def test_no_more_sync_bodies_run_than_there_are_threads() -> None:
    app, three = App(threads=3), threading.Barrier(3)
    lock, running, most = threading.Lock(), 0, 0

    def body(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        three.wait(10)
        with lock:
            running -= 1
        return number

    @app.workflow
    async def workflow(step: Step) -> int:
        return sum(await asyncio.gather(*(step.run(f"body {n}", body, n) for n in range(30))))

    async with sandbox(app):
        assert await (await workflow.trigger()).result(10) == sum(range(30))

    assert most == 3


async def test_sync_workflow_survives_crashes_without_running_bodies_twice(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> int:
        for number in range(4):
            step.run(f"note {number}", ledger.note_in_thread, str(number))
            step.sleep(f"nap {number}", 2)
        return len(ledger)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        for _ in range(4):
            await t.settle()
            await t.crash()
            await t.advance(2)
        assert await execution.result(5) == 4

    assert ledger == ["0", "1", "2", "3"]


async def test_sync_on_error_runs_steps(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> None:
        raise RuntimeError("of the user")

    @workflow.on_error
    def clean_up(step: SyncStep, error: BaseException) -> None:
        step.run("note", ledger.note_in_thread, str(error))

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        assert await execution.status() == "failed"

    assert ledger == ["of the user"]
