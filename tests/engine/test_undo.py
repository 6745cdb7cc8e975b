"""A failed execution undoes its completed steps, in reverse order of their start; a crash between any two goes on there."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from stepwell import App, Execution, Step, StepInfo, SyncStep, current_step
from stepwell.errors import (
    CrashLoopError,
    ExecutionAbortedError,
    ExecutionCancelledError,
    ExecutionFailedError,
    InvalidTransitionError,
)
from stepwell.testing import sandbox

from .conftest import Ledger, in_memory, until

HOUR = "1 hour"

book: Ledger = Ledger()
"""Side effects of the functions of this module, which are found again by their names."""


@pytest.fixture(autouse=True)
def _clean_book() -> None:
    book.clear()


@dataclass
class Payment:
    id: str


async def charge(id: str) -> Payment:
    book.append(f"charge {id}")
    return Payment(id)


async def refund(payment: Payment) -> None:
    book.append(f"refund {payment.id}")


def refund_in_thread(payment: Payment) -> None:
    book.append(f"refund {payment.id}")


async def unannotated(payment: Any) -> None:
    book.append(f"refund {payment}")


async def buy(*ids: str) -> str:
    """A body whose steps have undos."""
    step = current_step()
    for id in ids:
        await step.run(id, charge, id, undo=refund)
    return "bought"


async def failed(execution: Execution[Any], message: str = "failed") -> None:
    with pytest.raises(ExecutionFailedError, match=message):
        await execution.result()
    assert await execution.status() == "failed"


async def steps_of(execution: Execution[Any]) -> dict[str, StepInfo]:
    return {step.path: step for step in await execution.steps()}


def undos(ledger: list[str]) -> list[str]:
    return [entry for entry in ledger if entry.startswith(("undo", "refund"))]


class Shop:
    """Three steps with undos, then a failure; each undo can be held."""

    def __init__(self) -> None:
        self.app = App()
        self.ledger = Ledger()
        self.starts: Counter[str] = Counter()
        self.held: str | None = None
        self.reached = asyncio.Event()

        async def undo(name: str) -> None:
            self.starts[f"undo {name}"] += 1
            if self.held == name:
                self.reached.set()
                await asyncio.Event().wait()
            self.ledger.append(f"undo {name}")

        async def body(name: str) -> str:
            self.starts[name] += 1
            return name

        @self.app.workflow
        async def flow(step: Step, end: str) -> None:
            self.starts["flow"] += 1
            for name in ("one", "two", "three"):
                await step.run(name, body, name, undo=undo)
            if end == "fail":
                step.fail("no stock")
            elif end == "raise":
                raise ValueError("no stock")
            await step.sleep("wait", "1 day")

        @flow.on_error
        async def clean(step: Step, end: str, error: BaseException) -> None:
            await step.run("clean", self.note_clean)

        self.flow = flow

    async def note_clean(self) -> None:
        self.starts["clean"] += 1
        self.ledger.append("clean")


THREE = ["undo three", "undo two", "undo one"]


# --------------------------------------------------------------------------------------------------------- what runs


@pytest.mark.parity("P5.8")
@pytest.mark.parametrize("end", ["fail", "raise", "timeout"])
async def test_undos_run_in_reverse_order_and_then_on_error(end: str) -> None:
    shop = Shop()
    async with sandbox(shop.app) as tester:
        execution = await shop.flow.trigger(end, timeout=HOUR)
        await tester.advance("2 hours")
        await failed(execution, "did not end within" if end == "timeout" else "no stock")
        steps = await steps_of(execution)
        assert shop.ledger == [*THREE, "clean"]
        assert [path for path in steps if path.startswith("#undo/")] == ["#undo/three", "#undo/two", "#undo/one"]
        assert {path for path, step in steps.items() if step.undone} == {"one", "two", "three"}
        assert (steps["#undo/two"].name, steps["#undo/two"].kind, steps["#undo/two"].input) == ("two", "run", ["two"])
        assert shop.starts["flow"] == (2 if end == "timeout" else 1)
        assert max(count for name, count in shop.starts.items() if name != "flow") == 1


async def test_a_completed_execution_undoes_nothing() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        return (await step.run("charge", charge, "p", undo=refund)).id

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == "p"
        assert [step.undone for step in await execution.steps()] == [False]
    assert book == ["charge p"]


async def test_only_completed_steps_are_undone(ledger: Ledger) -> None:
    app = App()

    async def refuse(_: str) -> str:
        raise ValueError("refused")

    async def endless() -> str:
        return await asyncio.Event().wait() and ""

    @app.workflow
    async def flow(step: Step) -> None:
        with pytest.raises(ValueError, match="refused"):
            await step.run("refused", refuse, "x", retries=0, undo=ledger.note)
        running = asyncio.create_task(step.run("running", endless, undo=ledger.note))
        await step.run("done", ledger.note, "done", undo=ledger.note)
        await asyncio.sleep(0)
        assert not running.done()
        step.fail("no")

    async with sandbox(app):
        execution = await flow.trigger()
        await failed(execution)
        steps = await steps_of(execution)
        assert [path for path in steps if path.startswith("#undo/")] == ["#undo/done"]
        assert "running" not in steps or steps["running"].status == "cancelled"
    assert ledger == ["done", "done"]


async def test_the_undo_gets_the_typed_result(ledger: Ledger) -> None:
    app = App()

    async def look(payment: Payment) -> None:
        ledger.append(f"{type(payment).__name__} {payment.id}")

    async def raw() -> Any:
        return Payment("raw")

    @app.workflow
    async def flow(step: Step, crash: bool) -> None:
        await step.run("plain", charge, "p", undo=look)
        await step.run("raw", raw, returns=Payment, undo=look)

        @step.do("decorated", undo=look)
        async def decorated() -> Payment:
            return Payment("d")

        await decorated()
        await step.sleep("nap", HOUR)
        raise ValueError("no")

    async with sandbox(app) as tester:
        execution = await flow.trigger(True)
        await tester.settle()
        await tester.crash()
        await tester.advance("2 hours")
        await failed(execution)
    assert ledger == ["Payment d", "Payment raw", "Payment p"]


async def test_a_plain_function_and_a_partial_undo(ledger: Ledger) -> None:
    app = App()

    def note(prefix: str, payment: Payment) -> None:
        ledger.append(f"{prefix} {payment.id}")

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("one", charge, "1", undo=refund_in_thread)
        await step.run("two", charge, "2", undo=functools.partial(note, "partial"))
        raise ValueError("no")

    async with sandbox(app):
        await failed(await flow.trigger())
    assert book == ["charge 1", "charge 2", "refund 1"]
    assert ledger == ["partial 2"]


async def test_a_plain_workflow_undoes_its_steps() -> None:
    app = App()

    @app.workflow
    def flow(step: SyncStep) -> None:
        step.run("one", charge, "1", undo=refund)

        @step.do("two", undo=refund_in_thread)
        def two() -> Payment:
            return Payment("2")

        two()
        step.sleep("nap", HOUR)
        step.fail("no")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        await tester.crash()
        await tester.advance("2 hours")
        await failed(execution)
    assert book == ["charge 1", "refund 2", "refund 1"]


async def test_branches_are_undone_in_reverse_order_of_their_start(ledger: Ledger) -> None:
    app = App()
    go = {name: asyncio.Event() for name in "abc"}

    async def body(name: str) -> str:
        await go[name].wait()
        return name

    @app.workflow
    async def flow(step: Step) -> None:
        await asyncio.gather(*(step.run(name, body, name, undo=ledger.note) for name in "abc"))
        raise ValueError("no")

    async with sandbox(app):
        execution = await flow.trigger()
        for name in "cab":
            go[name].set()
            await until_completed(execution, name)
        await failed(execution)
    assert ledger == ["c", "b", "a"]


async def until_completed(execution: Execution[Any], path: str) -> None:
    async with asyncio.timeout(5):
        async for _ in execution.watch():
            steps = await steps_of(execution)
            if path in steps and steps[path].status == "completed":
                return


# --------------------------------------------------------------------------------------------------------- what goes wrong


async def test_an_undo_is_tried_again_like_its_step(ledger: Ledger) -> None:
    app = App()

    async def flaky(name: str) -> None:
        ledger.append(f"try {current_step().attempt}")
        if current_step().attempt < 3:
            raise ConnectionError("not now")

    @app.workflow(retries=0)
    async def flow(step: Step) -> None:
        await step.run("one", ledger.note, "one", retries=2, retry_delay=HOUR, undo=flaky)
        raise ValueError("no")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        info = await execution.info()
        assert (info.status, info.waiting_for, info.ending) == ("sleeping", "#undo/one", "failed")
        assert in_memory(tester) == set()
        await tester.crash()
        await tester.advance("5 hours")
        await failed(execution, "no")
        undo = (await steps_of(execution))["#undo/one"]
        assert (undo.status, undo.attempt, len(undo.attempts)) == ("completed", 3, 2)
        assert (await execution.info()).ending is None
    assert ledger == ["one", "try 1", "try 2", "try 3"]


async def test_an_undo_that_fails_for_good_is_recorded_and_the_next_runs(ledger: Ledger) -> None:
    app = App()

    async def refuse(_: str) -> None:
        raise ConnectionError("bank is closed")

    @app.workflow(retries=0)
    async def flow(step: Step) -> None:
        await step.run("one", ledger.note, "one", undo=ledger.note)
        await step.run("two", ledger.note, "two", undo=refuse)
        raise ValueError("no")

    async with sandbox(app):
        execution = await flow.trigger()
        await failed(execution, "no")
        steps = await steps_of(execution)
        assert (steps["one"].undone, steps["two"].undone) == (True, False)
        undo = steps["#undo/two"]
        assert undo.status == "failed"
        assert undo.error is not None
        assert undo.error.message == "bank is closed"
    assert ledger == ["one", "two", "one"]


@pytest.mark.parametrize("how", ["fail", "abort", "cancels-itself"])
async def test_an_undo_that_ends_itself_is_recorded_and_the_next_runs(how: str, ledger: Ledger) -> None:
    app = App()

    async def give_up(_: str) -> None:
        ledger.append(how)
        if how == "fail":
            current_step().fail("cannot undo")
        elif how == "abort":
            current_step().abort("cannot undo")
        cast("asyncio.Task[Any]", asyncio.current_task()).cancel()
        await asyncio.sleep(0)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("one", ledger.note, "one", undo=ledger.note)
        await step.run("two", ledger.note, "two", undo=give_up)
        raise ValueError("no")

    async with sandbox(app):
        execution = await flow.trigger()
        await failed(execution, "no")
        steps = await steps_of(execution)
        assert (steps["one"].undone, steps["two"].undone) == (True, False)
        assert steps["#undo/two"].status == ("cancelled" if how == "cancels-itself" else "failed")
    assert ledger == ["one", "two", how, "one"]


async def test_the_result_of_an_undo_need_not_be_storable(ledger: Ledger) -> None:
    app = App()

    async def odd(_: str) -> object:
        return object()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("one", ledger.note, "one", undo=odd)
        raise ValueError("no")

    async with sandbox(app):
        execution = await flow.trigger()
        await failed(execution, "no")
        assert (await steps_of(execution))["one"].undone


async def test_undos_run_outside_the_timeout() -> None:
    """One sleeps for longer than the execution had, and parks meanwhile."""
    app = App()
    ledger = Ledger()

    async def slow(name: str) -> None:
        ledger.append(f"begin {name}")
        await current_step().sleep("nap", "3 hours")
        ledger.append(f"end {name}")

    @app.workflow(timeout=HOUR)
    async def flow(step: Step) -> None:
        await step.run("one", ledger.note, "one", undo=slow, timeout="1 minute")
        await step.sleep("wait", "1 day")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.advance("61 minutes")
        assert in_memory(tester) == set()
        assert await execution.status() == "sleeping"
        epoch = (await execution.info()).wake_at
        await tester.advance(HOUR)
        assert (await execution.info()).wake_at == epoch
        assert ledger == ["one", "begin one"]
        await tester.advance("3 hours")
        await failed(execution, "did not end within")
        assert (await steps_of(execution))["#undo/one/nap"].status == "completed"
    assert ledger == ["one", "begin one", "begin one", "end one"]


@pytest.mark.parametrize("how", ["abort", "cancel"])
async def test_abort_and_cancel_undo_nothing(how: str) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("charge", charge, "p", undo=refund)
        if how == "abort":
            step.abort()
        await step.sleep("wait", HOUR)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        if how == "cancel":
            await execution.cancel()
        with pytest.raises((ExecutionAbortedError, ExecutionCancelledError)):
            await execution.result()
    assert book == ["charge p"]


async def test_steps_of_undos_and_on_error_are_not_undone(ledger: Ledger) -> None:
    app = App()

    async def undo(_: str) -> None:
        await current_step().run("inside", ledger.note, "inside", undo=ledger.note)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("one", ledger.note, "one", undo=undo)
        raise ValueError("no")

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        await step.run("clean", ledger.note, "clean", undo=ledger.note)
        step.fail("again")

    async with sandbox(app):
        await failed(await flow.trigger(), "no")
    assert ledger == ["one", "inside", "clean"]


def _takes_nothing() -> None: ...


def _takes_two(a: object, b: object) -> None: ...


@pytest.mark.parametrize("bad", [5, "refund", _takes_nothing, _takes_two])
async def test_what_cannot_undo_is_refused_before_the_step_runs(bad: Any, ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        with pytest.raises(TypeError, match="undo="):
            await step.run("one", ledger.note, "one", undo=bad)
        with pytest.raises(TypeError, match="undo="):
            await step.do("two", undo=bad)(ledger.note)("two")
        return "done"

    @app.workflow
    def plain(step: SyncStep) -> str:
        with pytest.raises(TypeError, match="undo="):
            step.run("one", ledger.note, "one", undo=bad)
        return "done"

    async with sandbox(app):
        assert await (await flow.trigger()).result() == "done"
        assert await (await plain.trigger()).result() == "done"
    assert ledger == []


# --------------------------------------------------------------------------------------------------------- crashes


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("end", ["fail", "raise", "timeout", "cancel"])
@pytest.mark.parametrize("at", ["three", "two", "one"])
async def test_a_crash_between_any_two_undos_goes_on_with_the_next(at: str, end: str) -> None:
    shop = Shop()
    async with sandbox(shop.app) as tester:
        shop.held = at
        execution = await shop.flow.trigger(end, timeout=HOUR)
        await tester.settle() if end in ("timeout", "cancel") else None
        if end == "cancel":
            await execution.cancel("enough", undo=True)
        passing = asyncio.create_task(tester.advance("2 hours"))
        await shop.reached.wait()
        passing.cancel()
        await asyncio.wait([passing])
        recorded = {step.path for step in await execution.steps() if step.status == "completed"}
        assert f"#undo/{at}" not in recorded
        assert (await execution.info()).ending == ("cancelled" if end == "cancel" else "failed")
        shop.held = None
        await tester.crash()
        if end == "cancel":
            with pytest.raises(ExecutionCancelledError, match="enough"):
                await execution.result()
        else:
            await failed(execution)
        steps = await steps_of(execution)
        assert all(steps[name].undone for name in ("one", "two", "three"))
    assert shop.ledger == ([*THREE] if end == "cancel" else [*THREE, "clean"])
    assert shop.starts.pop("flow") >= 2
    assert {name for name, count in shop.starts.items() if count > 1} == {f"undo {at}"}


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("turns", range(0, 60, 3))
async def test_a_crash_at_any_moment_undoes_each_step_once(turns: int) -> None:
    shop = Shop()
    async with sandbox(shop.app) as tester:
        execution = await shop.flow.trigger("raise")
        for _ in range(turns):
            await asyncio.sleep(0.0002)
        recorded = {step.path for step in await execution.steps() if step.status == "completed"}
        await tester.crash()
        await failed(execution, "no stock")
        steps = await steps_of(execution)
        assert {path: step.status for path, step in steps.items()} == dict.fromkeys(
            ["one", "two", "three", "#undo/one", "#undo/two", "#undo/three", "#on_error/clean"], "completed"
        )
    names = {path: path.rpartition("/")[2] for path in recorded}
    starts = {path: f"undo {name}" if path.startswith("#undo") else name for path, name in names.items()}
    assert all(shop.starts[name] == 1 for name in starts.values())
    assert max(shop.starts.values()) <= 2
    # What was cut in its body runs once more; the order stays.
    assert [entry for i, entry in enumerate(shop.ledger) if entry not in shop.ledger[:i]] == [*THREE, "clean"]


@pytest.mark.guarantee("G3")
async def test_nothing_new_starts_while_undos_are_looked_for(ledger: Ledger) -> None:
    """The function does not fail again: what it would do now must not happen."""
    app = App()
    world = {"fails": True}
    reached, hold = asyncio.Event(), {"on": True}

    async def undo(name: str) -> None:
        reached.set()
        if hold["on"]:
            await asyncio.Event().wait()
        ledger.append(f"undo {name}")

    @app.workflow
    async def flow(step: Step) -> str:
        await step.run("one", ledger.note, "one", undo=undo)
        if world["fails"]:
            raise ValueError("no")
        await step.sleep("nap", 1)
        await step.progress("on the way")
        await step.now("when")
        await step.run("more", ledger.note, "more")
        return "done"

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await reached.wait()
        world["fails"] = hold["on"] = False
        await tester.crash()
        await failed(execution, "no")
        assert set(await steps_of(execution)) == {"one", "#undo/one"}
    assert ledger == ["one", "undo one"]


@pytest.mark.parametrize("shape", ["gather", "group", "orphan", "failed-first", "failed-sibling", "plain"])
async def test_undos_of_branches_are_found_again(shape: str, ledger: Ledger) -> None:
    app = App()
    reached, hold = asyncio.Event(), {"on": True}

    async def undo(name: str) -> None:
        reached.set()
        if hold["on"]:
            await asyncio.Event().wait()
        ledger.append(f"undo {name}")

    async def refuse() -> None:
        await until(lambda: len(ledger) >= 2)
        raise ValueError("no")

    @app.workflow
    async def flow(step: Step) -> None:
        async def branch(name: str) -> None:
            await asyncio.sleep(0)
            await step.run(name, ledger.note, name, undo=lambda value: undo(value))
            await step.sleep(f"after-{name}", HOUR)

        bad = functools.partial(step.run, "bad", refuse, retries=0)
        match shape:
            case "gather":
                await asyncio.gather(branch("one"), branch("two"), bad())
            case "group" | "failed-first":
                async with asyncio.TaskGroup() as group:
                    if shape == "failed-first":
                        group.create_task(bad())
                    group.create_task(branch("one"))
                    group.create_task(branch("two"))
                    if shape == "group":
                        group.create_task(bad())
            case "orphan":
                tasks = [asyncio.create_task(branch(name)) for name in ("one", "two")]
                await bad()
                await asyncio.gather(*tasks)
            case _:
                await step.race("first", one=branch("one"), two=branch("two"), bad=bad())

    @app.workflow
    def plain(step: SyncStep) -> None:
        for name in ("one", "two"):
            step.run(name, ledger.note, name, undo=lambda value: undo(value))
        step.run("bad", refuse, retries=0)

    async with sandbox(app) as tester:
        execution = await (plain if shape == "plain" else flow).trigger()
        await reached.wait()
        hold["on"] = False
        await tester.crash()
        await failed(execution)
        steps = await steps_of(execution)
        assert (steps["one"].undone, steps["two"].undone) == (True, True)
    assert sorted(ledger) == ["one", "two", "undo one", "undo two"]


async def test_undos_of_lost_branches_are_found_again(ledger: Ledger) -> None:
    """A decided loser is closed unstarted on replay; its steps are to be undone all the same."""
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        async def lose(name: str) -> None:
            await step.run(name, ledger.note, name, undo=lambda value: ledger.note(f"undo {value}"))
            await step.sleep(f"{name}-waits", "1 day")

        async def win() -> None:
            await step.sleep("short", 1)

        await step.race("first", lost=lose("raced"), won=win())
        with pytest.raises(TimeoutError):
            await step.within("in-time", 1, lose("late"))
        await step.sleep("nap", HOUR)
        raise ValueError("no")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.advance("30 minutes")
        assert in_memory(tester) == set()
        await tester.crash()
        await tester.advance("2 hours")
        await failed(execution, "no")
    assert ledger == ["raced", "late", "undo late", "undo raced"]


async def test_undos_inside_an_open_race_are_found_again(ledger: Ledger) -> None:
    app = App()

    @app.workflow(timeout=HOUR)
    async def flow(step: Step) -> None:
        async def side(name: str) -> None:
            await step.run(name, ledger.note, name, undo=lambda value: ledger.note(f"undo {value}"))
            await step.sleep(f"{name}-waits", "1 day")

        await step.within("in-time", "1 day", side("within"))

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.advance("30 minutes")
        assert in_memory(tester) == set()
        await tester.advance("2 hours")
        await failed(execution, "did not end within")
        assert (await steps_of(execution))["in-time"].status == "cancelled"
    assert ledger == ["within", "undo within"]


async def test_code_that_hangs_does_not_keep_undos_from_running(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell._engine.rebuild.PATIENCE_SECONDS", 0.1)
    app = App()
    world = {"hangs": False}

    @app.workflow(timeout=HOUR)
    async def flow(step: Step) -> None:
        await step.run("one", charge, "1", undo=refund)
        await step.sleep("nap", "1 minute")
        if world["hangs"]:
            await asyncio.Event().wait()
        await step.run("two", charge, "2", undo=refund)
        await step.sleep("wait", "1 day")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.advance("10 minutes")
        world["hangs"] = True
        await tester.advance(HOUR)
        await failed(execution, "did not end within")
        steps = await steps_of(execution)
    # The second is not met again, but its function has a name that the code still mentions.
    assert (steps["one"].undone, steps["two"].undone) == (True, True)
    assert book == ["charge 1", "charge 2", "refund 2", "refund 1"]


# --------------------------------------------------------------------------------------------------------- nested steps


async def test_nested_steps_are_undone_in_the_same_incarnation(ledger: Ledger) -> None:
    app = App()

    async def outer() -> str:
        step = current_step()
        await step.run("in", ledger.note, "in", undo=lambda value: ledger.note(f"undo {value}"))
        return "out"

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("out", outer, undo=lambda value: ledger.note(f"undo {value}"))
        raise ValueError("no")

    async with sandbox(app):
        execution = await flow.trigger()
        await failed(execution)
        assert {path for path, step in (await steps_of(execution)).items() if step.undone} == {"out", "out/in"}
    assert ledger == ["in", "undo in", "undo out"]


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "park"])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
async def test_functions_of_modules_undo_nested_steps_of_an_earlier_incarnation(*, plain: bool, crash: bool) -> None:
    app = App()

    @app.workflow
    async def async_flow(step: Step) -> None:
        await step.run("buy", buy, "a", "b", undo=_note_unbought)
        await step.sleep("nap", HOUR)
        raise ValueError("no")

    @app.workflow
    def plain_flow(step: SyncStep) -> None:
        step.run("buy", buy, "a", "b", undo=_note_unbought)
        step.sleep("nap", HOUR)
        raise ValueError("no")

    async with sandbox(app) as tester:
        execution = await (plain_flow if plain else async_flow).trigger()
        await tester.settle()
        await until(lambda: in_memory(tester) == set())
        if crash:
            await tester.crash()
        await tester.advance("2 hours")
        await failed(execution, "no")
        steps = await steps_of(execution)
        assert [path for path, step in steps.items() if step.undone] == ["buy", "buy/a", "buy/b"]
    assert book == ["charge a", "charge b", "refund b", "refund a", "unbought"]


async def _note_unbought(_: str) -> None:
    book.append("unbought")


async def test_a_nested_undo_that_cannot_be_found_again_is_warned_of_and_recorded_as_failed(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    async def outer() -> None:
        step = current_step()
        await step.run("closure", charge, "c", undo=lambda payment: ledger.note(payment.id))
        await step.run("partial", charge, "p", undo=functools.partial(refund))
        await step.run("unannotated", charge, "u", undo=cast("Any", unannotated))
        await step.run("good", charge, "g", undo=refund)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("outer", outer)
        await step.run("top", charge, "t", undo=lambda payment: ledger.note(payment.id))
        await step.sleep("nap", HOUR)
        raise ValueError("no")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        warned = [record.getMessage() for record in caplog.records if "cannot be found again" in record.getMessage()]
        assert len(warned) == 3
        await tester.crash()
        await tester.advance("2 hours")
        await failed(execution, "no")
        steps = await steps_of(execution)
        assert {path for path, step in steps.items() if step.undone} == {"outer/good", "top"}
        for name in ("closure", "partial", "unannotated"):
            undo = steps[f"#undo/outer/{name}"]
            assert undo.status == "failed"
            assert undo.error is not None
            assert f"'outer/{name}' was not undone" in undo.error.message
    assert ledger == ["t"]


async def test_the_body_of_a_completed_step_does_not_run_again_for_its_undos() -> None:
    app = App()

    async def outer() -> None:
        book.append("outer")
        await buy("a")

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("outer", outer)
        await step.sleep("nap", HOUR)
        step.fail("no")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        await tester.crash()
        await tester.advance("2 hours")
        await failed(execution)
    assert book == ["outer", "charge a", "refund a"]


async def test_nested_steps_of_an_interrupted_body_are_undone() -> None:
    app = App()

    async def outer() -> None:
        book.append("outer")
        await buy("a")
        await current_step().sleep("nap", "1 day")

    @app.workflow(timeout=HOUR)
    async def flow(step: Step) -> None:
        await step.run("outer", outer)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        await tester.crash()
        await tester.advance("2 hours")
        await failed(execution)
        steps = await steps_of(execution)
        assert steps["outer"].status == "cancelled"
        assert steps["outer/a"].undone
    assert book == ["outer", "charge a", "refund a"]


async def test_an_undo_that_the_code_has_lost_is_recorded_as_failed(ledger: Ledger) -> None:
    world = {"version": 1}
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("one", ledger.note, "one", undo=ledger.note)
        if world["version"] == 1:
            await step.run("two", ledger.note, "two", undo=ledger.note)
        await step.sleep("nap", HOUR)
        raise ValueError("no")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        world["version"] = 2
        await tester.crash()
        await tester.advance("2 hours")
        await failed(execution, "no")
        steps = await steps_of(execution)
        assert (steps["one"].undone, steps["two"].undone) == (True, False)
        assert steps["#undo/two"].status == "failed"
    assert ledger == ["one", "two", "one"]


async def test_code_that_does_not_fit_does_not_keep_the_others_from_being_undone(ledger: Ledger) -> None:
    """A step that became a sleep: another worker's code might fit, but what is left to do does not wait for it."""
    world = {"version": 1}
    app = App()

    @app.workflow(timeout=HOUR)
    async def flow(step: Step) -> None:
        await step.run("one", ledger.note, "one", undo=ledger.note)
        if world["version"] == 1:
            await step.run("two", ledger.note, "two", undo=ledger.note)
        else:
            await step.sleep("two", 1)
        await step.sleep("nap", "1 day")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        world["version"] = 2
        await tester.advance("2 hours")
        await failed(execution, "did not end within")
        steps = await steps_of(execution)
        assert (steps["one"].undone, steps["two"].undone) == (True, False)


async def test_a_crash_loop_undoes_nothing_more() -> None:
    shop = Shop()
    async with sandbox(shop.app) as tester:
        shop.held = "two"
        execution = await shop.flow.trigger("raise")
        for _ in range(5):
            await shop.reached.wait()
            shop.reached.clear()
            await tester.crash()
        with pytest.raises(ExecutionFailedError) as caught:
            await execution.result()
        assert isinstance(caught.value.__cause__, CrashLoopError)
        assert not (await steps_of(execution))["two"].undone
    assert shop.ledger == ["undo three"]


# --------------------------------------------------------------------------------------------------------- cancel(undo=True)


@pytest.mark.parametrize("crash", [False, True], ids=["", "crash"])
async def test_cancel_with_undo_undoes_and_ends_cancelled(*, crash: bool) -> None:
    shop = Shop()
    async with sandbox(shop.app) as tester:
        execution = await shop.flow.trigger("sleep", timeout=HOUR)
        await tester.settle()
        shop.held = "two"
        await shop.flow.cancel(execution.id, "changed my mind", undo=True)
        await shop.reached.wait()
        info = await execution.info()
        assert (info.status, info.ending, info.reason) == ("running", "cancelled", "changed my mind")
        await execution.cancel("again", undo=True)
        await tester.advance("2 hours")
        assert (await execution.info()).status == "running"
        shop.held = None
        await tester.crash()
        with pytest.raises(ExecutionCancelledError, match="changed my mind"):
            await execution.result()
        steps = await steps_of(execution)
        assert all(steps[name].undone for name in ("one", "two", "three"))
        assert steps["wait"].status == "cancelled"
        info = await execution.info()
        assert (info.ending, info.error, info.reason) == (None, None, "changed my mind")
        await execution.cancel(undo=True)
    assert shop.ledger == THREE


async def test_cancelling_with_undo_again_does_not_cut_the_undo_that_runs() -> None:
    app = App()
    begun, go_on = asyncio.Event(), asyncio.Event()
    starts: list[str] = []

    async def held(payment: Payment) -> None:
        starts.append(payment.id)
        begun.set()
        await go_on.wait()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("one", charge, "1", undo=held)
        await step.sleep("wait", "1 day")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        await execution.cancel("enough", undo=True)
        await begun.wait()
        await execution.cancel("again", undo=True)
        go_on.set()
        with pytest.raises(ExecutionCancelledError, match="enough"):
            await execution.result(5)
    assert starts == ["1"]


async def test_cancel_with_undo_of_a_running_body_starts_nothing_more(ledger: Ledger) -> None:
    app = App()
    begun = asyncio.Event()

    async def endless() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ledger.append("cut")
        return "late"

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("one", ledger.note, "one", undo=lambda value: ledger.note(f"undo {value}"))
        try:
            await step.run("endless", endless, undo=ledger.note)
        finally:
            await step.run("more", ledger.note, "more")

    async with sandbox(app):
        execution = await flow.trigger()
        await begun.wait()
        await execution.cancel(undo=True)
        with pytest.raises(ExecutionCancelledError):
            await execution.result()
        assert set(await steps_of(execution)) == {"one", "endless", "#undo/one"} or set(await steps_of(execution)) == {
            "one",
            "#undo/one",
        }
    assert sorted(ledger) == ["cut", "one", "undo one"]


async def test_cancel_with_undo_without_anything_to_undo_is_terminal_at_once(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("one", ledger.note, "one")
        await step.sleep("nap", HOUR)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        await execution.cancel("enough", undo=True)
        assert await execution.status() == "cancelled"
        delayed = await flow.trigger(delay=HOUR)
        await delayed.cancel(undo=True)
        assert await delayed.status() == "cancelled"


async def test_a_plain_cancel_ends_the_undoing() -> None:
    shop = Shop()
    async with sandbox(shop.app) as tester:
        execution = await shop.flow.trigger("sleep")
        await tester.settle()
        shop.held = "two"
        await execution.cancel("first", undo=True)
        await shop.reached.wait()
        await execution.cancel()
        info = await execution.info()
        assert (info.status, info.reason) == ("cancelled", "first")
        await until(lambda: in_memory(tester) == set())
        steps = await steps_of(execution)
        assert (steps["three"].undone, steps["two"].undone) == (True, False)
    assert shop.ledger == ["undo three"]


async def test_cancel_with_undo_of_a_failing_or_ended_execution_is_refused() -> None:
    shop = Shop()
    async with sandbox(shop.app):
        shop.held = "two"
        execution = await shop.flow.trigger("raise")
        await shop.reached.wait()
        with pytest.raises(InvalidTransitionError, match="failing"):
            await execution.cancel(undo=True)
        assert (await execution.info()).ending == "failed"
        await execution.cancel()
        assert await execution.status() == "cancelled"

    done = Shop()
    async with sandbox(done.app):
        execution = await done.flow.trigger("raise")
        await failed(execution)
        with pytest.raises(InvalidTransitionError, match="failed"):
            await execution.cancel(undo=True)


async def test_undos_survive_a_drained_worker() -> None:
    """What is left to do is given back with the execution and goes on elsewhere."""
    shop = Shop()
    async with sandbox(shop.app) as tester:
        shop.held = "two"
        execution = await shop.flow.trigger("raise")
        await shop.reached.wait()
        await tester.worker.drain(0)
        info = await execution.info()
        assert (info.status, info.ending) == ("queued", "failed")
        shop.held = None
        await tester.crash()
    assert undos(shop.ledger) == ["undo three"]


async def test_a_repeated_name_is_undone_once(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        for _ in range(3):
            await step.run("one", ledger.note, "one", undo=lambda value: ledger.note(f"undo {value}"))
        raise ValueError("no")

    async with sandbox(app):
        await failed(await flow.trigger())
    assert ledger == ["one", "undo one"]


async def test_names_that_look_like_ours_are_only_names(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        for name in ("#undo/one", "one", "a/b", "100%"):
            await step.run(name, ledger.note, name, undo=lambda value: ledger.note(f"undo {value}"))
        await step.sleep("nap", HOUR)
        raise ValueError("no")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        await tester.crash()
        await tester.advance("2 hours")
        await failed(execution, "no")
        undone = [step.name for step in await execution.steps() if step.undone]
    assert undone == ["#undo/one", "one", "a/b", "100%"]
    assert ledger[4:] == ["undo 100%", "undo a/b", "undo one", "undo #undo/one"]


async def test_an_undo_that_was_cancelled_is_not_waited_for_after_a_crash(ledger: Ledger) -> None:
    app = App()
    reached, hold = asyncio.Event(), {"on": True}

    async def undo(name: str) -> None:
        ledger.append(f"undo {name}")
        if name == "two":
            cast("asyncio.Task[Any]", asyncio.current_task()).cancel()
            await asyncio.sleep(0)
        reached.set()
        if hold["on"]:
            await asyncio.Event().wait()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("one", ledger.note, "one", undo=undo)
        await step.run("two", ledger.note, "two", undo=undo)
        raise ValueError("no")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await reached.wait()
        hold["on"] = False
        await tester.crash()
        await failed(execution, "no")
        steps = await steps_of(execution)
        assert (steps["one"].undone, steps["two"].undone) == (True, False)
    assert ledger == ["one", "two", "undo two", "undo one", "undo one"]


@pytest.mark.usefixtures("short_unwinding")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_abandoned_thread_does_nothing_while_undos_run(ledger: Ledger) -> None:
    app = App()
    go, told = threading.Event(), threading.Event()
    undoing, hold = asyncio.Event(), asyncio.Event()

    async def undo(name: str) -> None:
        undoing.set()
        await hold.wait()
        ledger.append(f"undo {name}")

    @app.workflow(timeout=HOUR)
    def flow(step: SyncStep) -> None:
        step.run("one", ledger.note, "one", undo=undo)
        go.wait()
        try:
            step.run("late", ledger.note, "late")
        except BaseException as error:
            ledger.append(type(error).__name__)
        try:
            step.abort("late")
        except BaseException as error:
            ledger.append(type(error).__name__)
        told.set()

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await until(lambda: ledger)
        passing = asyncio.create_task(tester.advance("2 hours"))
        await undoing.wait()
        go.set()
        await asyncio.to_thread(told.wait)
        hold.set()
        await passing
        await failed(execution, "did not end within")
        assert set(await steps_of(execution)) == {"one", "#undo/one"}
    assert ledger == ["one", "WorkflowCodeError", "WorkflowCodeError", "undo one"]


async def test_a_name_in_the_database_never_decides_what_is_called(tmp_path: Path) -> None:
    """Whoever writes to the file could else have any loaded function called."""
    app = App()
    url = f"sqlite:///{tmp_path / 'stepwell.db'}"

    async def outer() -> None:
        await buy("a")

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("outer", outer)
        await step.sleep("nap", HOUR)
        step.fail("no")

    async with sandbox(app, database=url) as tester:
        execution = await flow.trigger()
        await tester.settle()
        await tester.crash()
        with sqlite3.connect(tmp_path / "stepwell.db") as connection:
            [(name,)] = connection.execute("SELECT undo FROM steps WHERE path = 'outer/a'").fetchall()
            assert name == f"{__name__}:refund"
            connection.execute("UPDATE steps SET undo = ? WHERE path = 'outer/a'", (f"{__name__}:not_mentioned",))
        await tester.advance("2 hours")
        await failed(execution, "no")
        assert (await steps_of(execution))["#undo/outer/a"].status == "failed"
    assert book == ["charge a"]


async def not_mentioned(payment: Payment) -> None:
    book.append("not mentioned")


@pytest.mark.parametrize("kind", ["map", "for_each"])
@pytest.mark.parametrize("when", ["live", "completed", "open"])
async def test_items_of_a_fan_out_are_undone(kind: str, when: str, ledger: Ledger) -> None:
    app = App()

    async def undone(value: str | None) -> None:
        ledger.append(f"undo {value}")

    async def body(item: str) -> str:
        if when == "open" and item == "b":
            await current_step().sleep("nap", "1 day")
        ledger.append(item)
        return item

    @app.workflow(timeout=HOUR)
    async def flow(step: Step) -> None:
        if kind == "map":
            await step.map("items", ["a", "b"], body, concurrency=1 + (when == "open"), undo=undone)
        else:
            await step.for_each("items", ["a", "b"], body, concurrency=1 + (when == "open"), undo=undone)
        if when == "live":
            step.fail("no")
        await step.sleep("nap", "1 day")

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        if when != "live":
            await tester.crash()
        await tester.advance("2 hours")
        await failed(execution)
        found = {path for path, step in (await steps_of(execution)).items() if step.undone}
    ran = ["a"] if when == "open" else ["a", "b"]
    assert found == {f"items/{index}" for index in range(len(ran))}
    assert ledger == [*ran, *(f"undo {item if kind == 'map' else None}" for item in reversed(ran))]
