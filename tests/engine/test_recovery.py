"""After a crash everything continues where its record ends; what crashes its worker every time is stopped."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stepwell import App, Step, SyncStep, current_step
from stepwell.errors import CrashLoopError, ExecutionCancelledError, ExecutionFailedError
from stepwell.testing import Tester, sandbox
from tests.engine.conftest import Ledger, in_memory, statuses, until

pytestmark = pytest.mark.anyio

START = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parity("P1.10")
@pytest.mark.parity("P4.1")
@pytest.mark.guarantee("G3")
async def test_interrupted_body_runs_again_and_finished_steps_do_not(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def fragile() -> str:
            ledger.append(f"attempt {current_step().attempt}")
            if ledger.count("attempt 1") == 1:
                await asyncio.Event().wait()
            return "fragile"

        await step.run("before", ledger.note, "before")
        value = await step.run("fragile", fragile)
        await step.run("after", ledger.note, "after")
        return value

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: len(ledger) == 2)
        await t.crash()

        assert await execution.result(5) == "fragile"
        await t.settle()
        assert [(step.path, step.attempt, step.attempts) for step in await execution.steps()] == [
            ("before", 1, ()),
            ("fragile", 1, ()),
            ("after", 1, ()),
        ]

    assert ledger == ["before", "attempt 1", "attempt 1", "after"]


@pytest.mark.parity("P1.13")
@pytest.mark.guarantee("G1")
async def test_everything_in_flight_resumes(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step, number: int) -> int:
        await step.run("first", ledger.note, f"{number} first")
        await step.sleep("nap", 2 + number % 7)
        await step.run("second", ledger.note, f"{number} second")
        return number

    async with sandbox(app) as t:
        executions = await workflow.trigger_many(list(range(60)))
        for _ in range(4):
            await t.advance(1)
            await t.crash()
        await t.advance("1 hour")

        assert [await execution.result(5) for execution in executions] == list(range(60))

    assert len(ledger) == len(set(ledger)) == 120


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("turns", range(0, 40, 2))
async def test_crash_at_any_turn_of_the_loop_leads_to_the_same_end(turns: int, ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> list[str]:
        first = await step.run("first", ledger.note, "first")
        both = await asyncio.gather(step.run("a", ledger.note, "a"), step.run("b", ledger.note, "b"))
        return [first, *both]

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        for _ in range(turns):
            await asyncio.sleep(0)
        recorded = [step.path for step in await execution.steps() if step.status == "completed"]
        await t.crash()
        await t.settle()

        assert await execution.result(5) == ["first", "a", "b"]
        assert set(await statuses(execution)) == {"first", "a", "b"}

    assert set(ledger) == {"first", "a", "b"}
    assert all(ledger.count(path) == 1 for path in recorded)
    assert len(ledger) <= 5


async def test_clean_up_goes_on_after_a_crash(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.run("work", ledger.note, "work")
        raise RuntimeError("of the user")

    @workflow.on_error
    async def clean_up(step: Step, error: BaseException) -> None:
        await step.run("first", ledger.note, f"first: {error}")
        await step.sleep("nap", 3)
        await step.run("second", ledger.note, "second")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        await t.crash()
        await t.advance(3)

        info = await execution.info()
        assert info.status == "failed"
        assert info.error is not None
        assert info.error.message == "of the user"

    assert ledger == ["work", "first: of the user", "second"]


@pytest.mark.guarantee("G6")
async def test_backoff_is_neither_forgotten_nor_repeated(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def failing() -> str:
            attempt = current_step().attempt
            ledger.append(f"attempt {attempt}")
            if attempt < 3:
                raise RuntimeError("of the user")
            return f"attempt {attempt}"

        return await step.run("failing", failing, retry_delay="4 seconds", backoff="constant")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        for _ in range(4):
            await t.advance(3)
            await t.crash()
        await t.settle()

        assert await execution.result(5) == "attempt 3"
        finished = (await execution.info()).finished_at
        assert finished is not None
        assert timedelta(seconds=8) <= finished - START <= timedelta(seconds=10)

    assert ledger == ["attempt 1", "attempt 2", "attempt 3"]


async def test_ended_executions_are_left_alone(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        return await step.run("note", ledger.note, "note")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await execution.result(5)
        for _ in range(3):
            await t.crash()
            await t.settle()

        assert await execution.status() == "completed"

    assert ledger == ["note"]


async def test_zombie_writes_nothing(ledger: Ledger) -> None:
    app, may_end = App(), asyncio.Event()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def body() -> str:
            ledger.append("began")
            if len(ledger) == 1:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    await may_end.wait()
                    return "of the zombie"
            return "of the living"

        return await step.run("body", body)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        await t.crash()
        assert await execution.result(5) == "of the living"

        may_end.set()
        await t.settle()
        [body] = await execution.steps()
        assert (body.output, (await execution.info()).output) == ("of the living", "of the living")

    assert ledger == ["began", "began"]


async def test_worker_goes_on_after_a_crash(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step, number: int) -> str:
        return await step.run("note", ledger.note, str(number))

    async with sandbox(app) as t:
        for number in range(5):
            execution = await workflow.trigger(number)
            await t.crash()
            assert await execution.result(5) == str(number)
        later = await workflow.trigger(9, delay="1 hour")
        await t.crash()
        await t.advance("1 hour")
        assert await later.result(5) == "9"


# Poison


class Poison:
    """A body that asks the test to crash the worker each time it begins."""

    def __init__(self) -> None:
        self.begun = 0
        self._began = asyncio.Event()

    async def body(self) -> None:
        self.begun += 1
        self._began.set()
        await asyncio.Event().wait()

    async def crash(self, t: Tester, times: int) -> None:
        for _ in range(times):
            await asyncio.wait_for(self._began.wait(), 5)
            self._began.clear()
            await t.crash()


async def test_execution_that_crashes_its_worker_every_time_fails_after_5(ledger: Ledger) -> None:
    app, poison = App(), Poison()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.run("poison", poison.body)

    @workflow.on_error
    async def clean_up(step: Step, error: BaseException) -> None:
        ledger.append("on_error")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await poison.crash(t, 5)

        with pytest.raises(ExecutionFailedError) as failed:
            await execution.result(5)
        await t.settle()
        assert isinstance(failed.value.__cause__, CrashLoopError)
        assert "5 times" in failed.value.error_message
        assert await execution.status() == "failed"

    assert (poison.begun, ledger) == (5, [])


async def test_neighbours_of_a_poisonous_execution_complete(ledger: Ledger) -> None:
    app, poison = App(), Poison()

    @app.workflow
    async def poisonous(step: Step) -> None:
        await step.run("poison", poison.body)

    @app.workflow
    async def innocent(step: Step, number: int) -> int:
        async def slow() -> int:
            await asyncio.sleep(0.01)
            ledger.append(str(number))
            return number

        await step.run("slow", slow)
        return number

    async with sandbox(app) as t:
        bad = await poisonous.trigger()
        good = await innocent.trigger_many(list(range(20)))
        await poison.crash(t, 5)

        assert [await execution.result(10) for execution in good] == list(range(20))
        await t.settle()
        assert await bad.status() == "failed"

    assert sorted(ledger) == sorted(map(str, range(20)))


async def test_suspects_run_one_at_a_time(ledger: Ledger) -> None:
    app, running, most = App(), [0], [0]
    all_begun, crashes = asyncio.Event(), [0]

    @app.workflow
    async def workflow(step: Step) -> None:
        async def body() -> None:
            if crashes[0] < 2:
                ledger.append(f"crash {crashes[0]}")
                if len(ledger) == 4 * (crashes[0] + 1):
                    all_begun.set()
                await asyncio.Event().wait()
            running[0] += 1
            most[0] = max(most[0], running[0])
            await asyncio.sleep(0.01)
            running[0] -= 1

        await step.run("body", body)

    async with sandbox(app) as t:
        executions = await workflow.trigger_many([None] * 4)
        for _ in range(2):
            await asyncio.wait_for(all_begun.wait(), 5)
            all_begun.clear()
            crashes[0] += 1
            await t.crash()
        for execution in executions:
            assert await execution.result(10) is None

    assert most[0] == 1


async def test_suspect_that_has_recorded_a_step_is_none_any_more(ledger: Ledger) -> None:
    app, begun, may_end = App(), asyncio.Event(), asyncio.Event()
    crashes = 0

    @app.workflow
    async def workflow(step: Step, number: int) -> None:
        async def fragile() -> None:
            ledger.append(f"fragile {number}")
            if crashes < 2:
                if len(ledger) == 2 * (crashes + 1):
                    begun.set()
                await asyncio.Event().wait()

        async def long() -> None:
            ledger.append(f"long {number}")
            await may_end.wait()

        await step.run("fragile", fragile)
        await step.run("long", long)

    async with sandbox(app) as t:
        executions = await workflow.trigger_many([1, 2])
        for _ in range(2):
            await asyncio.wait_for(begun.wait(), 5)
            begun.clear()
            crashes += 1
            await t.crash()
        await until(lambda: {"long 1", "long 2"} <= set(ledger))
        may_end.set()
        for execution in executions:
            assert await execution.result(5) is None


async def test_newcomers_run_beside_a_suspect(ledger: Ledger) -> None:
    app, poison = App(), Poison()

    @app.workflow
    async def poisonous(step: Step) -> None:
        await step.run("poison", poison.body)

    @app.workflow
    async def innocent(step: Step) -> str:
        return await step.run("note", ledger.note, "note")

    async with sandbox(app) as t:
        bad = await poisonous.trigger()
        await poison.crash(t, 3)
        await until(lambda: poison.begun == 4)

        assert await (await innocent.trigger()).result(5) == "note"
        assert await bad.status() == "running"
        await bad.cancel()


async def test_recorded_step_resets_the_count() -> None:
    app, poison = App(), Poison()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def crashing_twice(number: int) -> None:
            if poison.begun < 2 * (number + 1):
                await poison.body()

        for number in range(4):
            await step.run(f"crashing {number}", crashing_twice, number)
        return "end"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await poison.crash(t, 8)

        assert await execution.result(5) == "end"


async def test_recorded_wait_resets_the_count() -> None:
    app, poison = App(), Poison()

    @app.workflow
    async def workflow(step: Step) -> str:
        for number in range(4):
            await step.sleep(f"nap {number}", 10)
            if poison.begun < 2 * (number + 1):
                await poison.body()
        return "end"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        crashing = asyncio.create_task(poison.crash(t, 8))
        for _ in range(8):
            await until(lambda: in_memory(t) == set() or crashing.done() or poison.begun)
            t.clock.move_to(t.clock.now() + 10_000_000)
            await asyncio.sleep(0.05)
        await asyncio.wait_for(crashing, 5)

        assert await execution.result(5) == "end"


async def test_suspect_can_be_cancelled() -> None:
    app, poison = App(), Poison()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.run("poison", poison.body)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await poison.crash(t, 3)
        await execution.cancel()
        await t.settle()

        with pytest.raises(ExecutionCancelledError):
            await execution.result(5)


async def test_releases_do_not_count_as_crashes(tmp_path: Path, ledger: Ledger) -> None:
    app, database = App(), f"sqlite:///{tmp_path / 'test.db'}"

    @app.workflow
    async def workflow(step: Step) -> str:
        async def body() -> str:
            ledger.append("began")
            if len(ledger) <= 7:
                await asyncio.Event().wait()
            return "end"

        return await step.run("body", body)

    async with sandbox(app, database=database) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
    for restart in range(2, 8):
        async with sandbox(app, database=database) as t:
            await until(lambda: len(ledger) >= restart)  # noqa: B023
    async with sandbox(app, database=database) as t:
        await t.settle()
        assert await workflow.get_execution(execution.id).result(5) == "end"

    assert ledger == ["began"] * 8


async def test_sync_workflow_that_crashes_its_worker_fails_as_well() -> None:
    app, poison = App(), Poison()

    @app.workflow
    def workflow(step: SyncStep) -> None:
        step.run("poison", poison.body)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await poison.crash(t, 5)
        await t.settle()

        with pytest.raises(ExecutionFailedError, match="5 times"):
            await execution.result(5)


# Restarts


@pytest.mark.guarantee("G1")
async def test_work_goes_on_after_a_restart(tmp_path: Path, ledger: Ledger) -> None:
    app, database = App(), f"sqlite:///{tmp_path / 'test.db'}"

    @app.workflow
    async def workflow(step: Step, number: int) -> int:
        await step.run("first", ledger.note, f"{number} first")
        await step.sleep("nap", "1 minute")
        await step.run("second", ledger.note, f"{number} second")
        return number

    async with sandbox(app, database=database) as t:
        executions = await workflow.trigger_many(list(range(10)))
        await t.settle()
    async with sandbox(app, database=database, start=START + timedelta(minutes=1)) as t:
        await t.settle()
        ids = [execution.id for execution in executions]
        assert [await workflow.get_execution(id).result(5) for id in ids] == list(range(10))

    assert len(ledger) == len(set(ledger)) == 20


async def test_leaving_the_app_lets_bodies_end_and_starts_none(tmp_path: Path, ledger: Ledger) -> None:
    app, may_end = App(database=f"sqlite:///{tmp_path / 'test.db'}"), asyncio.Event()

    @app.workflow
    async def workflow(step: Step) -> None:
        async def slow() -> str:
            ledger.append("began")
            await may_end.wait()
            return await ledger.note("slow")

        await step.run("slow", slow)
        await step.run("after", ledger.note, "after")

    async with asyncio.timeout(4):
        async with app.running(drain_timeout=5):
            execution = await workflow.trigger()
            await until(lambda: ledger)
            asyncio.get_running_loop().call_later(0.02, may_end.set)
    assert ledger == ["began", "slow"]

    async with app.connected():
        handle = workflow.get_execution(execution.id)
        assert (await handle.status(), await statuses(handle)) == ("queued", {"slow": "completed"})
    async with app.running():
        await workflow.get_execution(execution.id).result(5)

    assert ledger == ["began", "slow", "after"]


@pytest.mark.parametrize("kind", ["event", "child"])
async def test_events_and_children_count_as_progress(kind: str) -> None:
    """Each life of the worker records one more, and nothing else, before it dies."""
    app, lives, stuck = App(), [0], asyncio.Event()

    @app.workflow
    async def child(step: Step) -> None:
        pass

    @app.workflow
    async def workflow(step: Step) -> str:
        for n in range(8):
            if kind == "event":
                await step.listen(f"listen {n}", event="go")
            else:
                await step.start_workflow(f"start {n}", child)
            if n == lives[0]:
                stuck.set()
                await asyncio.Event().wait()
        return "done"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        for n in range(8):
            await execution.send_event("go", n)
        for _ in range(8):
            await asyncio.wait_for(stuck.wait(), 5)
            stuck.clear()
            lives[0] += 1
            await t.crash()
        assert await execution.result() == "done"
