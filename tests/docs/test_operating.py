"""Every cell of the table in docs/operating.md that says what is possible when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell import App, Execution, Step
from stepwell.errors import InvalidTransitionError
from stepwell.testing import Tester, sandbox
from stepwell.types import STATUSES

pytestmark = pytest.mark.anyio

TEXT = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
YES, NO, NOTHING, OPEN = "yes", "–", "does nothing", "if a sleep or backoff is open"  # noqa: RUF001


def table() -> dict[str, dict[str, str]]:
    rows = TEXT.partition("## What is possible when")[2].partition("\n\nWhere")[0].strip().splitlines()
    head, _, *body = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {status.strip("`"): dict(zip(head[1:], cells, strict=True)) for status, *cells in body}


TABLE = table()
CELLS = [(status, verb) for status, cells in TABLE.items() for verb in cells]
DO: dict[str, Callable[[Execution[Any]], Awaitable[object]]] = {
    "cancel": lambda execution: execution.cancel(),
    "pause": lambda execution: execution.pause(),
    "resume": lambda execution: execution.resume(),
    "wake": lambda execution: execution.wake(),
    "retry": lambda execution: execution.retry(),
    "restart": lambda execution: execution.restart(),
    "fork": lambda execution: execution.fork(),
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(STATUSES)
    assert {verb for cells in TABLE.values() for verb in cells} == set(DO)


async def reach(tester: Tester, status: str, *, asleep: bool) -> Execution[Any]:
    """An execution of this status, with an open sleep beside what else it does, or without."""
    app, gate = tester.app, asyncio.Event()

    @app.workflow
    async def workflow(step: Step) -> None:
        doing: list[Awaitable[object]] = [step.sleep("nap", "1 day")] if asleep or status == "sleeping" else []
        match status:
            case "running":
                doing.append(step.run("gate", gate.wait))
            case "listening":
                doing.append(step.listen("answer"))
            case "failed":
                raise ValueError("no")
            case "aborted":
                getattr(step, "abort")()  # noqa: B009
            case _:
                pass
        await asyncio.gather(*doing)

    execution = await workflow.trigger(
        delay="1 hour" if status in ("queued", "paused", "cancelled") and not asleep else None
    )
    async for info in execution.watch():
        if info.status in ("queued", status) or (asleep and info.status == "sleeping"):
            break
    if asleep:
        while "nap" not in {step.path for step in await execution.steps()}:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    if status == "paused":
        await execution.pause()
    elif status == "cancelled":
        await execution.cancel()
    elif status != "running":
        await tester.settle()
    assert await execution.status() == status
    return execution


async def is_done(execution: Execution[Any], verb: str) -> bool:
    try:
        await DO[verb](execution)
    except InvalidTransitionError as error:
        refusal = error
    else:
        return True
    assert await execution.status() in refusal.status
    return False


@pytest.mark.parametrize(("status", "verb"), CELLS, ids=[f"{status}-{verb}" for status, verb in CELLS])
async def test_cell(status: str, verb: str) -> None:
    cell = TABLE[status][verb]
    assert cell.partition(",")[0] in (YES, NO, NOTHING, OPEN)
    if status == "aborted" and not hasattr(Step, "abort"):
        pytest.skip("nothing aborts")

    async with sandbox(App()) as tester:
        execution = await reach(tester, status, asleep=False)
        run = (await execution.info()).run_number

        assert await is_done(execution, verb) == (cell not in (NO, OPEN))

        if cell in (NO, NOTHING, OPEN):
            assert (await execution.status(), (await execution.info()).run_number) == (status, run)
        elif "cancels it first" in cell:
            assert (await execution.runs())[0].status == "cancelled"


@pytest.mark.parametrize("status", ["running", "listening", "paused"])
async def test_cell_with_an_open_sleep(status: str) -> None:
    assert TABLE[status]["wake"] == OPEN

    async with sandbox(App()) as tester:
        execution = await reach(tester, status, asleep=True)

        assert await is_done(execution, "wake")
