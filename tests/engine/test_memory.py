"""An execution that has left memory leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from stepwell import App, Execution, Step, Workflow, current_step
from stepwell._engine.call import Call
from stepwell._engine.listening import Listener
from stepwell._engine.runner import Runner
from stepwell.testing import sandbox
from tests.engine.conftest import until

pytestmark = pytest.mark.anyio


async def completes(step: Step) -> None:
    await step.run("a", asyncio.sleep, 0)


async def sleeps(step: Step) -> None:
    await step.sleep("nap", "1 day")


async def listens(step: Step) -> None:
    await step.listen("event")


async def nests(step: Step) -> None:
    async def body() -> None:
        await asyncio.gather(*(current_step().run(f"inner-{i}", asyncio.sleep, 0) for i in range(3)))

    await step.run("outer", body)


async def fails(step: Step) -> None:
    async def body() -> None:
        # The closure holds the step, the error's traceback the frame.
        raise ValueError(step.execution_id)

    await step.run("bad", body, retries=0)


async def branches(step: Step) -> None:
    await asyncio.gather(step.sleep("a", "1 day"), step.sleep("b", "2 days"), step.run("c", asyncio.sleep, 0))


async def races(step: Step) -> None:
    await step.race("first", nap=step.sleep("nap", "1 hour"), quick=step.run("quick", asyncio.sleep, 0))


async def is_cancelled(step: Step) -> None:
    await step.run("long", asyncio.Event().wait)


async def maps(step: Step) -> None:
    async def body(item: int) -> None:
        await current_step().run("inner", asyncio.sleep, 0)
        if item == 3:
            await current_step().sleep("nap", "1 day")

    await step.map("map", range(5), body, concurrency=2)


@pytest.mark.parametrize(
    "function",
    [completes, maps, sleeps, listens, nests, fails, branches, races, is_cancelled],
    ids=lambda function: function.__name__,
)
async def test_nothing_stays_in_memory(function: Callable[[Step], Coroutine[Any, Any, None]]) -> None:
    before, app = found(), App()
    workflow: Workflow[None, None] = app.workflow(function)

    @workflow.on_error
    async def clean_up(step: Step, error: BaseException) -> None:
        await step.run("clean", asyncio.sleep, 0)

    async with sandbox(app) as tester:
        executions: list[Execution[None]] = await workflow.trigger_many([None] * 20)
        if function is is_cancelled:
            await until(lambda: len(tester.worker.running_steps()) == len(executions))
            for execution in executions:
                await execution.cancel()
        else:
            await tester.settle()
        await until(lambda: not tester.worker.resident)
        await asyncio.sleep(0.01)

        assert found() - before == set()


def found() -> set[int]:
    """What is in memory of executions; other tests may have left something, an error perhaps that was kept."""
    for _ in range(3):
        gc.collect()  # what a scope held is found only once the scope itself is gone
    return {id(each) for each in gc.get_objects() if isinstance(each, Runner | Call | Listener)}
