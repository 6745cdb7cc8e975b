"""Tasks that user code leaves behind: those of workflow code end with the execution, those of bodies are not ours."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stepwell import App, Step
from stepwell.testing import sandbox
from tests.engine.conftest import Ledger, in_memory, statuses, until

pytestmark = pytest.mark.anyio


async def hang(ledger: Ledger) -> None:
    ledger.append("began")
    try:
        await asyncio.Event().wait()
    finally:
        ledger.append("ended")


@pytest.mark.parametrize("end", ["returns", "raises", "is cancelled"])
async def test_tasks_of_workflow_code_end_with_the_execution(ledger: Ledger, end: str) -> None:
    app, tasks = App(), list[asyncio.Task[None]]()

    @app.workflow
    async def workflow(step: Step) -> None:
        tasks.append(asyncio.create_task(hang(ledger)))
        tasks.append(asyncio.create_task(step.run("hang", hang, ledger)))
        await until(lambda: len(ledger) == 2)
        if end == "raises":
            raise RuntimeError("of the user")
        if end == "is cancelled":
            await asyncio.Event().wait()

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: len(ledger) >= 2)
        if end == "is cancelled":
            await execution.cancel()
        await t.settle()

        assert all(task.cancelled() for task in tasks)
        assert await execution.status() in ("completed", "failed", "cancelled")
        assert set((await statuses(execution)).values()) <= {"cancelled"}

    assert ledger == ["began", "began", "ended", "ended"]


async def test_output_is_recorded_after_the_orphans_have_ended(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def slow_to_end() -> None:
            ledger.append("began")
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.02)
                ledger.append("ended")

        asyncio.create_task(slow_to_end())  # noqa: RUF006
        await until(lambda: ledger)
        return "end"

    async with sandbox(app):
        assert await (await workflow.trigger()).result(5) == "end"
        assert ledger == ["began", "ended"]


async def test_orphan_makes_no_further_step_after_the_end(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def stubborn() -> None:
            ledger.append("began")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await step.run("note", ledger.note, "never")

        asyncio.create_task(stubborn())  # noqa: RUF006
        await until(lambda: ledger)
        return "end"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        assert await execution.result(5) == "end"
        await t.settle()
        assert await execution.steps() == []

    assert ledger == ["began"]


@pytest.mark.usefixtures("short_unwinding")
async def test_orphan_that_never_ends_does_not_keep_the_execution(caplog: pytest.LogCaptureFixture) -> None:
    app, over = App(), asyncio.Event()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def immortal() -> None:
            while not over.is_set():
                try:
                    await over.wait()
                except asyncio.CancelledError:
                    continue

        asyncio.create_task(immortal())  # noqa: RUF006
        await asyncio.sleep(0)
        return "end"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        try:
            assert await execution.result(5) == "end"
            await t.settle()
            assert in_memory(t) == set()
        finally:
            over.set()

    assert "abandoned" in caplog.text


async def test_error_of_an_orphan_does_not_fail_the_execution() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def failing() -> None:
            raise RuntimeError("of the orphan")

        orphan = asyncio.create_task(failing())
        await step.sleep("nap", 1)
        return repr(orphan.exception())

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance(1)

        assert await execution.result(5) == "RuntimeError('of the orphan')"


async def test_failing_step_of_an_orphan_is_recorded(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def failing() -> None:
            raise RuntimeError("of the orphan")

        orphan = asyncio.create_task(step.run("failing", failing, retries=0))
        await step.sleep("nap", 1)
        orphan.exception()
        return "end"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance(1)

        assert await execution.result(5) == "end"
        assert await statuses(execution) == {"failing": "failed", "nap": "completed"}


@pytest.mark.parametrize("end", ["returns", "parks", "is cancelled"])
async def test_background_task_of_a_library_outlives_its_body(ledger: Ledger, end: str) -> None:
    app, may_end, tasks = App(), asyncio.Event(), list[asyncio.Task[None]]()

    async def keep_connection() -> None:
        await may_end.wait()
        ledger.append("library ended")

    @app.workflow
    async def workflow(step: Step) -> None:
        async def body() -> None:
            tasks.append(asyncio.create_task(keep_connection()))

        await step.run("body", body)
        if end == "parks":
            await step.sleep("nap", "1 hour")
        if end == "is cancelled":
            await asyncio.Event().wait()

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: tasks)
        if end == "is cancelled":
            await execution.cancel()
        await until(lambda: not in_memory(t))
        await t.advance("1 hour")
        assert in_memory(t) == set()
        assert not tasks[0].done()

        may_end.set()
        await tasks[0]

    assert ledger == ["library ended"]


async def test_background_task_of_a_cancelled_body_is_left_alone() -> None:
    app, may_end, tasks = App(), asyncio.Event(), list[asyncio.Task[bool]]()

    @app.workflow
    async def workflow(step: Step) -> None:
        async def body() -> None:
            tasks.append(asyncio.create_task(may_end.wait()))
            await asyncio.Event().wait()

        await step.run("body", body)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: tasks)
        await execution.cancel()
        await t.settle()
        assert not tasks[0].done()

        may_end.set()
        assert await tasks[0]


async def test_children_of_a_body_are_awaited_before_it_is_complete(ledger: Ledger) -> None:
    app, may_end = App(), asyncio.Event()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def child() -> str:
            await may_end.wait()
            return await ledger.note("child")

        async def body() -> str:
            asyncio.create_task(step.run("child", child))  # noqa: RUF006
            await asyncio.sleep(0)
            ledger.append("body returned")
            return "body"

        return await step.run("body", body)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        await asyncio.sleep(0.01)
        assert await execution.status() == "running"

        may_end.set()
        assert await execution.result(5) == "body"
        await t.settle()
        assert await statuses(execution) == {"body": "completed", "body/child": "completed"}

    assert ledger == ["body returned", "child"]


async def test_tasks_outside_executions_are_not_touched() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None: ...

    async with sandbox(app) as t:
        own = asyncio.create_task(asyncio.Event().wait())
        await (await workflow.trigger()).result(5)
        await t.settle()
        assert not own.done()
        own.cancel()


async def test_task_factory_of_the_program_is_used_and_put_back() -> None:
    app, made, loop = App(), list[str](), asyncio.get_running_loop()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        made.append(coro.__qualname__.rpartition(".")[2])
        return asyncio.Task(coro, loop=loop, **options)

    async def branch() -> None: ...

    @app.workflow
    async def workflow(step: Step) -> None:
        await asyncio.create_task(branch())

    loop.set_task_factory(factory)
    try:
        async with sandbox(app):
            await (await workflow.trigger()).result(5)
        assert loop.get_task_factory() is factory
    finally:
        loop.set_task_factory(None)

    assert "branch" in made
