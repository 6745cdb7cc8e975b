"""Workflows that use every verb between them. Each value says what it should be, and which body made it."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, Final

from stepwell import App, NonRetryableError, Step, StepTimeoutError, SyncStep, current_step
from tests.acceptance.programs import kit

app = App("everything", database=kit.database())

ITEMS: Final = 12
BAD_ITEM: Final = 5
EVENTS: Final = 3
WORDS: Final = 10
LEGS: Final = 6
ENTRIES: Final = "CREATE TABLE IF NOT EXISTS entries (execution TEXT, path TEXT, value TEXT)"
"""Without a key: whatever were written twice would stand there twice."""

# ------------------------------------------------------------------------------------------------------ the bodies


def note(what: str, **fields: object) -> None:
    here = current_step()
    place = {"execution": here.execution_id, "path": here.path, "run": here.run_number, "attempt": here.attempt}
    kit.write(what, **place, **fields)


def made(wanted: object) -> str:
    value = f"{wanted}:{kit.fresh()}"
    note("end", value=value)
    return value


async def make(wanted: int) -> str:
    note("begin")
    await asyncio.sleep(random.choice([0.01, 0.1]))
    return made(wanted)


def make_in_thread(wanted: int) -> str:
    note("begin")
    time.sleep(random.choice([0.01, 0.1]))
    return made(wanted)


async def make_at_third(wanted: int) -> str:
    note("begin")
    if current_step().attempt < 3:
        raise ConnectionError(current_step().attempt)
    return made(wanted)


async def make_in_run_two(wanted: int) -> str:
    note("begin")
    if current_step().run_number == 1:
        raise NonRetryableError("not in the first run")
    return made(wanted)


async def make_outside(wanted: int) -> str:
    """A body with steps of its own, which rests meanwhile."""
    note("begin")
    step = current_step()
    await step.run("inner-1", make, wanted)
    await step.sleep("nap", 0.03)
    await asyncio.gather(step.run("inner-2", make, wanted), step.run("inner-3", make_in_thread, wanted))
    return made(wanted)


async def talk(wanted: int) -> str:
    note("begin")
    for number in range(WORDS):
        await current_step().emit("words", number)
        await asyncio.sleep(0.002)
    return made(wanted)


async def make_item(number: int) -> str:
    note("begin")
    await asyncio.sleep(0.02)
    if number == BAD_ITEM:
        raise NonRetryableError("bad item")
    if number % 4 == 3:
        await current_step().sleep(0.01)
    return made(number)


def make_item_in_thread(number: int) -> str:
    note("begin")
    return made(number)


async def do_item(number: int) -> None:
    note("begin")
    await asyncio.sleep(0.002)


async def make_part(numbers: list[int]) -> str:
    note("begin")
    return made(sum(numbers))


def enter(connection: sqlite3.Connection, wanted: int) -> str:
    here, value = current_step(), f"{wanted}:{kit.fresh()}"
    connection.execute("INSERT INTO entries VALUES (?, ?, ?)", (here.execution_id, here.path, value))
    return value


async def unmake(value: str) -> None:
    note("begin", of=value)
    await asyncio.sleep(0.005)
    note("undone", of=value)


def unmake_in_thread(value: str) -> None:
    note("begin", of=value)
    note("undone", of=value)


def see(path: str, value: object) -> object:
    note("seen", of=path, value=value)
    return value


async def seen(path: str, call: Awaitable[object]) -> object:
    return see(path, await call)


# ------------------------------------------------------------------------------------------------------ children


@app.workflow
async def leaf(step: Step, wanted: int) -> str:
    value = await step.run("make", make, wanted)
    await step.sleep("nap", 0.02)
    return value


@app.workflow
async def sleeper(step: Step) -> None:
    await step.run("make", make, 0)
    await step.sleep("night", "1 hour")


async def begin_another(wanted: int) -> str:
    """A body that starts an execution without an id: again, when it runs again, the same."""
    note("begin")
    await leaf.trigger(wanted)
    await asyncio.sleep(random.choice([0.01, 0.1]))
    return made(wanted)


# ------------------------------------------------------------------------------------------------------ what completes


def expected(workflow: str, n: int) -> dict[str, Any]:
    """What should come out, without the marks of those who made it."""
    items: list[Any] = [str(item) for item in range(ITEMS)]
    common: dict[str, Any] = {
        "first": f"{n + 1}",
        "local": f"{n + 2}",
        "outside": f"{n + 3}",
        "book": f"{n + 4}",
        "child": f"{n + 5}",
        "started": f"{n + 6}",
        "parts": ["10", "35", "21"],
        "quick": f"{n + 7}",
        "race": f"{n + 8}",
        "late": "late",
        "events": [f"event {number}" for number in range(EVENTS)],
    }
    if workflow == "plain":
        return common | {"map": items}
    items[BAD_ITEM] = "bad item"
    branches = {
        "thread": f"{n + 9}",
        "flaky": f"{n + 10}",
        "talk": f"{n + 11}",
        "nested": f"{n + 12}",
        "begun": f"{n + 13}",
    }
    return common | branches | {"map": items}


async def dawdle(step: Step, name: str) -> str:
    await step.sleep(f"{name}-nap", 30)
    return await step.run(f"{name}-never", make, 0)


@app.workflow(retries=3)
async def verbs(step: Step, n: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    await step.emit("words", "begin")
    out["first"] = await seen("first", step.run("first", make, n + 1))
    see("now", (await step.now("now")).isoformat())
    see("uuid", str(step.uuid("uuid")))
    see("random", step.random("random"))

    @step.do("local")
    async def local() -> str:
        return await make(n + 2)

    out["local"] = await seen("local", local())
    out["outside"] = await seen("outside", step.run("outside", make_in_thread, n + 3, executor="process"))
    out["book"] = await seen("book", step.transaction("book", enter, n + 4))
    out["begun"] = await seen("begun", step.run("begun", begin_another, n + 13))
    await step.sleep_until("until", step.created_at + timedelta(seconds=0.3))
    await step.progress("half", fraction=0.5)
    out["thread"], out["flaky"], out["talk"], out["nested"] = await asyncio.gather(
        seen("thread", step.run("thread", make_in_thread, n + 9)),
        seen("flaky", step.run("flaky", make_at_third, n + 10, retry_delay=0.02)),
        seen("talk", step.run("talk", talk, n + 11)),
        seen("nested", step.run("nested", make_outside, n + 12)),
    )
    out["child"] = await seen("child", step.execute_workflow("child", leaf, n + 5))
    child = await step.start_workflow("start", leaf, n + 6, detached=True)
    items = await step.map("map", range(ITEMS), make_item, concurrency=4, failures="collect")
    out["map"] = [str(item) for item in items]
    await step.for_each("effects", range(ITEMS), do_item, concurrency=4)
    out["parts"] = await step.batch("parts", range(ITEMS), make_part, batch_size=5)
    out["quick"] = await seen("quick", step.within("quick-in", 20, step.run("quick", make, n + 7)))
    try:
        out["late"] = await step.within("late-in", 0.05, dawdle(step, "late"))
    except StepTimeoutError:
        out["late"] = "late"
    winner, out["race"] = await step.race("race-of", fast=step.run("race", make, n + 8), slow=dawdle(step, "loser"))
    see("race-of", winner)
    out["events"] = [await step.listen(f"event-{number}", event="go") for number in range(EVENTS)]
    out["started"] = await seen("started", step.wait_for_workflow("started", child))
    await step.sleep("rest", 0.03)
    await step.emit("words", "end")
    return out


def dawdle_in_thread(step: SyncStep, name: str) -> str:
    step.sleep(f"{name}-nap", 30)
    return step.run(f"{name}-never", make, 0)


@app.workflow(retries=3)
def plain(step: SyncStep, n: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    step.emit("words", "begin")
    out["first"] = see("first", step.run("first", make_in_thread, n + 1))
    see("now", step.now("now").isoformat())

    @step.do("local")
    def local() -> str:
        return make_in_thread(n + 2)

    out["local"] = see("local", local())
    out["outside"] = see("outside", step.run("outside", make_in_thread, n + 3, executor="process"))
    out["book"] = see("book", step.transaction("book", enter, n + 4))
    step.progress("half")
    out["child"] = see("child", step.execute_workflow("child", leaf, n + 5))
    child = step.start_workflow("start", leaf, n + 6)
    out["map"] = step.map("map", range(ITEMS), make_item_in_thread, concurrency=4)
    step.for_each("effects", range(ITEMS), do_item, concurrency=4)
    out["parts"] = step.batch("parts", range(ITEMS), make_part, batch_size=5)
    out["quick"] = see("quick", step.within("quick-in", 20, lambda: step.run("quick", make, n + 7)))
    try:
        out["late"] = step.within("late-in", 0.05, lambda: dawdle_in_thread(step, "late"))
    except StepTimeoutError:
        out["late"] = "late"
    winner, out["race"] = step.race(
        "race-of", fast=lambda: step.run("race", make, n + 8), slow=lambda: dawdle_in_thread(step, "loser")
    )
    see("race-of", winner)
    out["events"] = [step.listen(f"event-{number}", event="go") for number in range(EVENTS)]
    out["started"] = see("started", step.wait_for_workflow("started", child))
    step.sleep("rest", 0.03)
    step.emit("words", "end")
    return out


@app.workflow
async def plodder(step: Step, n: int) -> list[str]:
    """Slow enough to be paused, woken, restarted and forked on its way."""
    out: list[str] = []
    for leg in range(LEGS):
        out.append(await step.run(f"leg-{leg}", make, n + leg))
        out.append(await step.transaction(f"entry-{leg}", enter, n + leg))
        if leg == 1:
            out.append(await step.execute_workflow("child", leaf, n))
        await step.sleep(f"nap-{leg}", 8 if leg == 2 else 0.1)
    return out


@app.workflow
async def stumbler(step: Step, n: int) -> list[str]:
    """Needs to be retried once."""
    first = await step.run("first", make, n)
    entry = await step.transaction("entry", enter, n)
    return [first, entry, await step.run("trip", make_in_run_two, n)]


# ------------------------------------------------------------------------------------------------------ what does not


async def make_with_undo_inside(wanted: int) -> str:
    note("begin")
    await current_step().run("inner", make, wanted, undo=unmake)
    return made(wanted)


@app.workflow
async def saga(step: Step, n: int) -> None:
    await step.run("one", make, n, undo=unmake)
    await step.run("two", make_with_undo_inside, n, undo=unmake)
    await asyncio.gather(
        step.run("left", make_in_thread, n, undo=unmake_in_thread), step.run("right", make, n, undo=unmake)
    )
    await step.start_workflow("sleeper", sleeper)
    await step.start_workflow("leaf", leaf, n, detached=True)
    await step.transaction("entry", enter, n)
    match n % 4:
        case 0:
            step.fail("as agreed")
        case 1:
            raise ValueError("as agreed")
        case 2:
            await step.map("map", range(ITEMS), make_item, concurrency=3, undo=unmake)
        case _:
            step.abort("as agreed")


@saga.on_error
async def sorry(step: Step, n: int, error: BaseException) -> None:
    await step.run("sorry", make, n)


@app.workflow
async def patient(step: Step, n: int) -> None:
    """Waits to be cancelled."""
    await step.run("one", make, n, undo=unmake)
    await step.start_workflow("sleeper", sleeper)
    await step.run("two", make, n, undo=unmake)
    await step.listen("never")


if __name__ == "__main__":
    kit.main(app, concurrency=int(os.environ.get("CONCURRENCY", "1000")))
