"""Steps in parallel branches of workflow code."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from stepwell import App, Execution, Step
from stepwell.errors import ExecutionFailedError
from stepwell.testing import sandbox

HOUR = "1 hour"


class Body:
    """A body that counts its runs, says when it has started, and ends when it may."""

    def __init__(self, value: str = "value", *, blocked: bool = False) -> None:
        self.runs = 0
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = 0
        self._value = value
        if not blocked:
            self.release.set()

    async def __call__(self) -> str:
        self.runs += 1
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self._value


async def statuses(execution: Execution[Any]) -> dict[str, str]:
    return {step.path: step.status for step in await execution.steps()}


async def test_gather_runs_bodies_at_the_same_time_and_keeps_the_order() -> None:
    app, barrier = App(), asyncio.Barrier(5)

    async def body(number: int) -> int:
        await barrier.wait()
        return number

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await asyncio.gather(*(step.run(f"s{number}", body, number) for number in range(5)))

    async with sandbox(app):
        assert await (await flow.trigger()).result() == [0, 1, 2, 3, 4]


async def test_thread_bodies_run_at_the_same_time() -> None:
    app, barrier = App(), threading.Barrier(5)

    def body(number: int) -> int:
        barrier.wait(10)
        return number

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await asyncio.gather(*(step.run(f"s{number}", body, number) for number in range(5)))

    async with sandbox(app):
        assert await (await flow.trigger()).result() == [0, 1, 2, 3, 4]


async def test_a_task_group_gives_the_results_of_its_tasks() -> None:
    app, left, right = App(), Body("left"), Body("right")

    @app.workflow
    async def flow(step: Step) -> str:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(step.run("left", left))
            second = group.create_task(step.run("right", right))
        return first.result() + second.result()

    async with sandbox(app):
        assert await (await flow.trigger()).result() == "leftright"


@pytest.mark.guarantee("G3")
async def test_after_a_crash_only_unfinished_branches_run_again() -> None:
    app, done, open_ = App(), Body("done"), Body("open", blocked=True)

    @app.workflow
    async def flow(step: Step) -> list[str]:
        return list(await asyncio.gather(step.run("done", done), step.run("open", open_)))

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await open_.started.wait()
        async for _ in execution.watch():
            if "done" in await statuses(execution):
                break
        await t.crash()
        open_.release.set()
        assert await execution.result() == ["done", "open"]
    assert (done.runs, open_.runs) == (1, 2)


@pytest.mark.guarantee("G2")
@pytest.mark.guarantee("G3")
async def test_a_failing_sibling_cancels_and_a_replay_does_not_run_the_cancelled_body_again() -> None:
    app, slow = App(), Body(blocked=True)
    seen: list[str] = []
    bad_runs: list[str] = []

    async def bad() -> None:
        bad_runs.append("run")
        await slow.started.wait()
        raise ValueError("bad")

    @app.workflow
    async def flow(step: Step) -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(step.run("slow", slow))
                group.create_task(step.run("bad", bad, retries=0))
        except* ValueError as errors:
            seen.append(repr(errors.exceptions))
        await step.sleep("pause", HOUR)
        return "survived"

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        assert await statuses(execution) == {"slow": "cancelled", "bad": "failed", "pause": "sleeping"}
        await t.crash()
        await t.advance(HOUR)
        assert await execution.result(timeout=5) == "survived"
    assert (slow.runs, slow.cancelled, bad_runs) == (1, 1, ["run"])
    assert len(set(seen)) == 1
    assert len(seen) >= 2


async def test_an_uncaught_failure_of_a_sibling_fails_the_execution_and_ends_the_others() -> None:
    app, slow = App(), Body(blocked=True)

    async def bad() -> None:
        await slow.started.wait()
        raise ValueError("bad")

    @app.workflow
    async def flow(step: Step) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(step.run("slow", slow))
            group.create_task(step.run("bad", bad, retries=0))

    async with sandbox(app):
        execution = await flow.trigger()
        with pytest.raises(ExecutionFailedError):
            await execution.result()
        assert await statuses(execution) == {"slow": "cancelled", "bad": "failed"}
    assert slow.cancelled == 1


async def test_gather_that_raises_leaves_its_siblings_running_until_the_workflow_ends() -> None:
    app, slow, after = App(), Body("slow", blocked=True), Body("after")

    async def bad() -> None:
        await slow.started.wait()
        raise ValueError("bad")

    @app.workflow
    async def flow(step: Step) -> str:
        slow_call = asyncio.create_task(step.run("slow", slow))
        try:
            await asyncio.gather(slow_call, step.run("bad", bad, retries=0))
        except ValueError:
            slow.release.set()
            await step.run("after", after)
        return await slow_call

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == "slow"
        assert set((await statuses(execution)).values()) == {"completed", "failed"}
    assert slow.cancelled == 0


async def test_gather_with_return_exceptions_gives_all_outcomes() -> None:
    app, good = App(), Body("good")

    async def bad() -> None:
        raise ValueError("bad")

    @app.workflow
    async def flow(step: Step) -> list[str]:
        results = await asyncio.gather(step.run("good", good), step.run("bad", bad, retries=0), return_exceptions=True)
        await step.sleep("pause", HOUR)
        return [str(result) for result in results]

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        assert await execution.result() == ["good", "bad"]


async def test_orphan_branches_end_with_the_execution() -> None:
    app, orphan = App(), Body(blocked=True)
    kept: list[asyncio.Task[str]] = []

    @app.workflow
    async def flow(step: Step) -> str:
        kept.append(asyncio.create_task(step.run("orphan", orphan)))
        await orphan.started.wait()
        return "ended"

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == "ended"
        assert (await statuses(execution)).get("orphan", "cancelled") == "cancelled"
        assert kept[0].done()
    assert orphan.cancelled == 1


@pytest.mark.parametrize("how", ["return", "cancel"])
async def test_a_body_that_is_cancelled_in_a_branch_is_cancelled_once_and_may_clean_up(how: str) -> None:
    app, barrier, all_run = App(), asyncio.Barrier(9), asyncio.Event()
    ended: list[str] = []

    async def slow(name: str) -> None:
        await barrier.wait()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            ended.append(name)

    @app.workflow
    async def flow(step: Step) -> None:
        kept = [asyncio.create_task(step.run(f"slow-{number}", slow, str(number))) for number in range(8)]
        await barrier.wait()
        await asyncio.sleep(0)
        all_run.set()
        if how == "cancel":
            await asyncio.wait(kept)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        if how == "cancel":
            await all_run.wait()
            await execution.cancel()
        await t.settle()
    assert sorted(ended) == [str(number) for number in range(8)]


async def test_a_call_cancelled_by_workflow_code_is_recorded_and_not_run_again() -> None:
    app, slow = App(), Body(blocked=True)
    outcomes: list[bool] = []

    @app.workflow
    async def flow(step: Step) -> str:
        call = asyncio.create_task(step.run("slow", slow))
        if not slow.started.is_set():
            await slow.started.wait()
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        outcomes.append(call.cancelled())
        await step.sleep("pause", HOUR)
        return "done"

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        assert await execution.result() == "done"
        assert (await statuses(execution))["slow"] == "cancelled"
    assert outcomes == [True, True]
    assert (slow.runs, slow.cancelled) == (1, 1)


async def test_a_body_that_ends_despite_its_cancellation_is_recorded_the_same_way_for_every_replay() -> None:
    app, started = App(), asyncio.Event()
    runs: list[str] = []
    outcomes: list[bool] = []

    async def stubborn() -> str:
        runs.append("run")
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "ended anyway"
        return "never"

    @app.workflow
    async def flow(step: Step) -> str:
        call = asyncio.create_task(step.run("stubborn", stubborn))
        await started.wait()
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        outcomes.append(call.cancelled())
        await step.sleep("pause", HOUR)
        return "done"

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        assert await execution.result() == "done"
    assert runs == ["run"]
    assert outcomes == [True, True]


@pytest.mark.parity("P3.10")
@pytest.mark.parity("P4.8")
async def test_executions_run_side_by_side() -> None:
    app, barrier = App(), asyncio.Barrier(20)

    async def meet(number: int) -> int:
        await barrier.wait()
        return number

    @app.workflow
    async def flow(step: Step, number: int) -> int:
        return await step.run("meet", meet, number)

    async with sandbox(app):
        executions = [await flow.trigger(number) for number in range(20)]
        assert await asyncio.gather(*(execution.result() for execution in executions)) == list(range(20))


async def test_a_thousand_parallel_steps() -> None:
    app = App()

    async def body(number: int) -> int:
        return number

    @app.workflow
    async def flow(step: Step) -> int:
        found = await asyncio.gather(*(step.run(f"s{number}", body, number) for number in range(1_000)))
        await step.sleep("pause", HOUR)
        return sum(found)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        assert await execution.result() == 499_500


async def test_branches_sleep_side_by_side() -> None:
    app = App()
    ends: list[int] = []

    async def note(number: int) -> None:
        ends.append(number)

    @app.workflow
    async def flow(step: Step) -> None:
        async def branch(number: int) -> None:
            await step.sleep(f"nap-{number}", f"{number} hours")
            await step.run(f"note-{number}", note, number)

        await asyncio.gather(*(branch(number) for number in (3, 1, 2)))

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("3 hours")
        await execution.result()
        info = await execution.info()
    assert ends == [1, 2, 3]
    assert info.finished_at is not None
    assert info.started_at is not None
    assert (info.finished_at - info.started_at).total_seconds() == 3 * 3600


async def test_a_shielded_call_keeps_the_scope() -> None:
    app, body = App(), Body()

    @app.workflow
    async def flow(step: Step) -> str:
        return await asyncio.shield(asyncio.ensure_future(step.run("shielded", body)))

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == "value"
        assert set(await statuses(execution)) == {"shielded"}
