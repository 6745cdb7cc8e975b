"""A crash loses memory, and nothing else. `crash()` of the test kit is that crash; files stand for a new process."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest

from stepwell import App, Execution, Step, StepInfo, SyncStep, current_step
from stepwell.errors import CrashLoopError, ExecutionFailedError
from stepwell.testing import Tester, sandbox

HOUR = "1 hour"
DEADLINE = 10


class Program:
    """A workflow with sequential, nested, parallel, failing, retried and sleeping steps, and what its bodies did."""

    output: ClassVar = ["a", "b1", "b2", "no", "c", "d1d2", "e"]

    def __init__(self) -> None:
        self.app = App()
        self.starts: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.crash_in = ""
        self.reached = asyncio.Event()

        @self.app.workflow
        async def flow(step: Step) -> list[str]:
            found = [await step.run("a", self.body, "a")]
            found += await asyncio.gather(step.run("b1", self.body, "b1"), step.run("b2", self.body, "b2"))
            try:
                await step.run("bad", self.bad, retries=1, retry_delay=0)
            except ValueError as error:
                found.append(str(error))
            await step.sleep("nap", HOUR)
            await step.progress("awake")
            found.append(await step.run("c", self.body, "c"))
            found.append(await step.run("d", self.parent))
            await step.sleep("short", "2 seconds")
            found.append(await step.run("e", self.in_thread, "e"))
            return found

        self.flow = flow

    async def body(self, name: str) -> str:
        await self._begin(name)
        self.ends[name] += 1
        return name

    async def bad(self) -> str:
        await self._begin(f"bad-{current_step().attempt}")
        self.ends["bad"] += 1
        raise ValueError("no")

    async def parent(self) -> str:
        here = current_step()
        return await here.run("d1", self.body, "d1") + await here.run("d2", self.body, "d2")

    def in_thread(self, name: str) -> str:
        self.starts[name] += 1
        self.ends[name] += 1
        return name

    async def _begin(self, name: str) -> None:
        self.starts[name] += 1
        if name == self.crash_in:
            self.crash_in = ""
            self.reached.set()
            await asyncio.Event().wait()


async def the_step(execution: Execution[Any], path: str) -> StepInfo:
    return next(step for step in await execution.steps() if step.path == path)


async def pass_time(tester: Tester, execution: Execution[Any]) -> None:
    """Let hours pass, quickly, until the execution has ended, without waiting for bodies."""
    async with asyncio.timeout(DEADLINE):
        while await execution.status() not in ("completed", "failed"):
            tester.clock.move_to(tester.clock.now() + 60_000_000)
            await asyncio.sleep(0.001)


NAMES = ["a", "b1", "b2", "bad-1", "bad-2", "c", "d1", "d2"]


@pytest.mark.guarantee("G2")
@pytest.mark.guarantee("G3")
@pytest.mark.parity("P4.1")
@pytest.mark.parity("P1.13")
@pytest.mark.parametrize("name", NAMES)
async def test_a_crash_inside_a_body_repeats_that_body_only(name: str) -> None:
    program = Program()
    program.crash_in = name

    async with sandbox(program.app) as t:
        execution = await program.flow.trigger()
        passing = asyncio.create_task(pass_time(t, execution))
        await program.reached.wait()
        recorded = {step.name for step in await execution.steps() if step.status in ("completed", "failed")}
        await t.crash()
        await passing
        assert await execution.result() == program.output

    assert program.starts.pop(name) == 2
    assert {program.starts[other] for other in recorded & set(program.starts)} <= {1}
    assert max(program.starts.values()) <= 2


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("turns", range(0, 60, 2))
async def test_a_crash_at_any_moment_never_repeats_a_recorded_step(turns: int) -> None:
    program = Program()

    async with sandbox(program.app) as t:
        execution = await program.flow.trigger()
        for _ in range(turns):
            await asyncio.sleep(0.0002)
            t.clock.move_to(t.clock.now() + 90_000_000)
        recorded = {step.name for step in await execution.steps() if step.status == "completed"}
        before = program.starts.copy()
        await t.crash()
        await pass_time(t, execution)
        assert await execution.result() == program.output

    assert {name: program.starts[name] for name in recorded & set(before)} == {
        name: before[name] for name in recorded & set(before)
    }
    assert max(program.starts.values()) <= 2


@pytest.mark.guarantee("G1")
@pytest.mark.parity("P3.3")
async def test_many_crashes_in_a_row_still_reach_the_end() -> None:
    program = Program()

    async with sandbox(program.app) as t:
        execution = await program.flow.trigger()
        for name in NAMES:
            program.crash_in = name
            program.reached.clear()
            passing = asyncio.create_task(pass_time(t, execution))
            await program.reached.wait()
            passing.cancel()
            await t.crash()
        await pass_time(t, execution)
        assert await execution.result() == program.output
    assert all(program.starts[name] >= 2 for name in NAMES)


@pytest.mark.guarantee("G1")
async def test_an_acknowledged_trigger_survives_a_crash_at_once() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, number: int) -> int:
        return number

    async with sandbox(app) as t:
        executions = [await flow.trigger(number) for number in range(10)]
        await t.crash()
        assert [await execution.result() for execution in executions] == list(range(10))


@pytest.mark.guarantee("G1")
async def test_crashes_may_follow_each_other_at_once() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        await step.sleep("nap", HOUR)
        return "done"

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        for _ in range(3):
            await t.crash()
        await t.advance(HOUR)
        assert await execution.result() == "done"


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("turns", range(0, 40, 2))
async def test_a_crash_at_any_moment_of_a_failing_execution_keeps_its_failure_and_its_clean_up(turns: int) -> None:
    app = App()
    starts: Counter[str] = Counter()

    async def body(name: str) -> None:
        starts[name] += 1
        if name == "bad":
            raise ValueError("no")

    @app.workflow
    async def flow(step: Step) -> None:
        starts["flow"] += 1
        await step.run("good", body, "good")
        await step.run("bad", body, "bad", retries=0)

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        starts[f"{type(error).__name__}: {error}"] += 1
        await step.run("one", body, "one")
        await step.run("two", body, "two")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        for _ in range(turns):
            await asyncio.sleep(0.0002)
        recorded = {step.name for step in await execution.steps()}
        await t.crash()
        with pytest.raises(ExecutionFailedError, match="no"):
            await execution.result()
        steps = {step.path: step.status for step in await execution.steps()}

    completed = dict.fromkeys(["good", "#on_error/one", "#on_error/two"], "completed")
    assert steps == {**completed, "bad": "failed"}
    assert all(starts[name] == 1 for name in recorded)
    assert max(starts.values()) <= 2
    assert set(starts) == {"flow", "good", "bad", "one", "two", "ValueError: no"}


@pytest.mark.guarantee("G1")
async def test_a_delayed_and_a_queued_execution_survive_a_crash() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        return "done"

    async with sandbox(app) as t:
        execution = await flow.trigger(delay=HOUR)
        await t.crash()
        await t.advance("59 minutes")
        assert await execution.status() == "queued"
        await t.advance("1 minute")
        assert await execution.result() == "done"


@pytest.mark.guarantee("G5")
async def test_an_ended_execution_is_not_touched_by_a_crash() -> None:
    app = App()
    entries: list[str] = []

    @app.workflow
    async def flow(step: Step) -> str:
        entries.append("entered")
        return "done"

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await execution.result()
        before = await execution.info()
        await t.crash()
        await t.advance(HOUR)
        assert await execution.info() == before
    assert entries == ["entered"]


@pytest.mark.guarantee("G6")
@pytest.mark.parity("P1.9")
@pytest.mark.parametrize("seconds", [4, 3600])
async def test_a_sleep_keeps_its_end_over_crashes(seconds: int) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        await step.sleep("nap", seconds)
        return "awake"

    async with sandbox(app) as t:
        began = t.clock.now()
        execution = await flow.trigger()
        for _ in range(3):
            await t.advance(seconds / 4)
            await t.crash()
        await t.advance(seconds / 4 - 0.001)
        assert await execution.status() == "sleeping"
        await t.advance(0.001)
        assert await execution.result() == "awake"
        nap = await the_step(execution, "nap")
    assert nap.finished_at is not None
    assert nap.finished_at.timestamp() * 1_000_000 - began == seconds * 1_000_000


# ------------------------------------------------------------------------------------------------- who may write


@pytest.mark.guarantee("G4")
async def test_what_a_lost_incarnation_still_does_is_not_recorded() -> None:
    app, started, go_on = App(), asyncio.Event(), asyncio.Event()
    again = asyncio.Event()
    runs: list[int] = []

    async def body() -> str:
        runs.append(len(runs))
        if len(runs) > 1:
            again.set()
            return "new"
        started.set()
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue
        return "old"

    @app.workflow
    async def flow(step: Step) -> str:
        value = await step.run("body", body)
        await step.run("after", body)
        return value

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await started.wait()
        await t.crash()
        await again.wait()
        go_on.set()
        assert await execution.result() == "new"
        assert (await the_step(execution, "body")).output == "new"


@pytest.mark.guarantee("G4")
async def test_a_thread_of_a_lost_incarnation_is_not_heard() -> None:
    app, started, release, late = App(), asyncio.Event(), threading.Event(), threading.Event()
    again = asyncio.Event()
    loop = asyncio.get_running_loop()
    runs: list[int] = []

    def body() -> str:
        runs.append(len(runs))
        if len(runs) > 1:
            loop.call_soon_threadsafe(again.set)
            return "new"
        loop.call_soon_threadsafe(started.set)
        release.wait(DEADLINE)
        late.set()
        return "old"

    @app.workflow
    async def flow(step: Step) -> str:
        value = await step.run("body", body)
        await step.sleep("nap", HOUR)
        return value

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await started.wait()
        crashing = asyncio.create_task(t.crash())
        await again.wait()
        await crashing
        release.set()
        await asyncio.to_thread(late.wait, DEADLINE)
        await t.advance(HOUR)
        assert await execution.result() == "new"


@pytest.mark.parametrize("how", ["return", "raise", "finally", "loop"])
async def test_what_a_parked_incarnation_makes_of_its_end_is_ignored(how: str) -> None:
    app = App()
    entries: list[str] = []
    ran: list[str] = []

    async def note() -> None:
        ran.append("ran")

    @app.workflow
    async def flow(step: Step) -> str:
        entries.append("entered")
        try:
            await step.sleep("nap", HOUR)
        except BaseException:
            if how == "return":
                return "swallowed"
            if how == "raise":
                raise RuntimeError("something else") from None
            if how == "loop":
                await step.run("note", note)
            raise
        finally:
            if how == "finally" and len(entries) == 1:
                raise RuntimeError("from finally")
        return "slept"

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        assert await execution.result() == "slept"
    assert (len(entries), ran) == (2, [])


# ------------------------------------------------------------------------------------------------- crash loops


async def test_an_execution_that_crashes_its_process_five_times_in_a_row_fails() -> None:
    app, started = App(), asyncio.Event()
    cleaned: list[str] = []
    runs: list[str] = []

    async def poison() -> None:
        runs.append("run")
        started.set()
        await asyncio.Event().wait()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("poison", poison)

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        cleaned.append("ran")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        for _ in range(5):
            await started.wait()
            started.clear()
            await t.crash()
        with pytest.raises(ExecutionFailedError) as caught:
            await execution.result()
        info = await execution.info()
    assert isinstance(caught.value.__cause__, CrashLoopError)
    assert info.error is not None
    assert info.error.type.rpartition(".")[2] == "CrashLoopError"
    assert (len(runs), cleaned) == (5, [])


async def test_a_recorded_step_begins_the_count_of_crashes_again() -> None:
    app, started = App(), asyncio.Event()
    blocked = [True]

    async def progress() -> None: ...

    async def poison() -> str:
        started.set()
        if blocked[0]:
            await asyncio.Event().wait()
        return "survived"

    entries: list[int] = []

    @app.workflow
    async def flow(step: Step) -> str:
        entries.append(len(entries))
        await step.run(f"progress-{len(entries)}", progress)
        return await step.run("poison", poison)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        for _ in range(8):
            await started.wait()
            started.clear()
            await t.crash()
        await started.wait()
        blocked[0] = False
        await t.crash()
        assert await execution.result() == "survived"
    assert len(entries) == 10


async def poison_and_neighbour(t: Tester, app: App) -> Execution[Any]:
    """Crash five times with a poisonous execution and its neighbour in memory; the neighbour is returned."""
    started = asyncio.Event()

    async def poison() -> None:
        started.set()
        await asyncio.Event().wait()

    @app.workflow
    async def bad(step: Step) -> None:
        await step.run("poison", poison)

    @app.workflow
    async def good(step: Step) -> str:
        await step.sleep("nap", HOUR)
        return "fine"

    poisonous, neighbour = await bad.trigger(), await good.trigger()
    for _ in range(5):
        await started.wait()
        started.clear()
        await t.crash()
    with pytest.raises(ExecutionFailedError):
        await poisonous.result()
    return neighbour


async def test_the_neighbours_of_a_poisonous_execution_finish() -> None:
    app = App()

    async with sandbox(app) as t:
        neighbour = await poison_and_neighbour(t, app)
        await pass_time(t, neighbour)
        assert await neighbour.result() == "fine"


async def test_a_suspect_starts_as_soon_as_the_one_before_it_has_left() -> None:
    app = App()

    async with sandbox(app) as t:
        neighbour = await poison_and_neighbour(t, app)
        await t.settle()
        assert await neighbour.status() == "sleeping"


# ------------------------------------------------------------------------------------------------- a new process


def program_on_file(runs: list[str], blocked: asyncio.Event | None = None) -> App:
    """An app as a process would make it at its start."""
    app = App()

    async def first() -> str:
        runs.append("first")
        return "first"

    async def second() -> str:
        runs.append("second")
        if blocked is not None:
            blocked.set()
            await asyncio.Event().wait()
        return "second"

    @app.workflow
    async def flow(step: Step, word: str) -> str:
        found = [word, await step.run("first", first), await step.run("second", second)]
        return " ".join(found)

    return app


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G3")
@pytest.mark.parity("P1.13")
@pytest.mark.parity("P3.11")
async def test_a_new_process_continues_where_the_old_one_was(tmp_path: Path) -> None:
    database, runs, blocked = f"sqlite:///{tmp_path}/x.db", list[str](), asyncio.Event()

    old = program_on_file(runs, blocked)
    async with sandbox(old, database=database):
        await old.workflows["flow"].trigger("hello", id="e")
        await blocked.wait()
    assert runs == ["first", "second"]

    new = program_on_file(runs)
    async with sandbox(new, database=database):
        assert await new.workflows["flow"].get_execution("e").result() == "hello first second"
    assert runs == ["first", "second", "second"]


@pytest.mark.guarantee("G1")
async def test_an_execution_triggered_without_any_worker_waits_for_one(tmp_path: Path) -> None:
    database, runs = f"sqlite:///{tmp_path}/x.db", list[str]()

    client = App(database=database)

    @client.workflow(name="flow")
    async def flow(step: Step, word: str) -> str: ...

    async with client.connected():
        execution = await flow.trigger("hello", id="e")
        assert await execution.status() == "queued"
    worker = program_on_file(runs)
    worker.use_database(database)
    async with worker.running():
        assert await worker.workflows["flow"].get_execution("e").result() == "hello first second"


@pytest.mark.guarantee("G5")
async def test_a_result_is_there_for_every_later_process(tmp_path: Path) -> None:
    database, runs = f"sqlite:///{tmp_path}/x.db", list[str]()

    for _ in range(3):
        app = program_on_file(runs)
        async with sandbox(app, database=database):
            execution = await app.workflows["flow"].trigger("hello", id="e", if_exists="return")
            assert await execution.result() == "hello first second"
    assert runs == ["first", "second"]


def test_execute_on_a_file_continues_nothing_it_has_not_started(tmp_path: Path) -> None:
    runs: list[str] = []
    app = program_on_file(runs)
    app.use_database(f"sqlite:///{tmp_path}/x.db")

    assert app.execute(app.workflows["flow"], "one") == "one first second"
    assert app.execute(app.workflows["flow"], "two") == "two first second"
    assert len(runs) == 4


@pytest.mark.guarantee("G3")
async def test_plain_workflows_survive_a_crash_too() -> None:
    app, started = App(), asyncio.Event()
    loop = asyncio.get_running_loop()
    runs: list[str] = []

    def body(name: str) -> str:
        runs.append(name)
        return name

    @app.workflow
    def flow(step: SyncStep) -> str:
        first = step.run("first", body, "first")
        loop.call_soon_threadsafe(started.set)
        step.sleep("nap", HOUR)
        return first + step.run("second", body, "second")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await started.wait()
        await t.crash()
        await t.advance(HOUR)
        assert await execution.result() == "firstsecond"
    assert runs == ["first", "second"]
