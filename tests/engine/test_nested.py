"""Steps inside the bodies of steps."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from stepwell import App, Execution, RetryPolicy, Step, StepInfo, SyncStep, current_step
from stepwell.errors import WorkflowCodeError
from stepwell.testing import sandbox

HOUR = "1 hour"


class Body:
    """A body that counts its runs and gives its value, once it may."""

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


async def by_path(execution: Execution[Any]) -> dict[str, StepInfo]:
    return {step.path: step for step in await execution.steps()}


async def statuses(execution: Execution[Any]) -> dict[str, str]:
    return {step.path: step.status for step in await execution.steps()}


@pytest.mark.parity("P5.3")
async def test_nested_steps_have_the_paths_of_their_parents() -> None:
    app, leaf = App(), Body()

    async def middle() -> str:
        return await current_step().run("leaf", leaf)

    async def top() -> str:
        return await current_step().run("middle", middle)

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("top", top)

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == "value"
        assert await statuses(execution) == dict.fromkeys(["top", "top/middle", "top/middle/leaf"], "completed")


async def test_the_step_of_the_workflow_works_inside_bodies_too() -> None:
    app, leaf = App(), Body()

    @app.workflow
    async def flow(step: Step) -> str:
        async def parent() -> str:
            return await step.run("leaf", leaf)

        return await step.run("parent", parent)

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        assert set(await statuses(execution)) == {"parent", "parent/leaf"}


@pytest.mark.guarantee("G3")
@pytest.mark.parity("P1.10")
async def test_a_finished_parent_is_not_entered_again() -> None:
    app, leaf = App(), Body()
    parents: list[str] = []

    async def parent() -> str:
        parents.append("entered")
        return await current_step().run("leaf", leaf)

    @app.workflow
    async def flow(step: Step) -> str:
        value = await step.run("parent", parent)
        await step.sleep("pause", HOUR)
        return value

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        assert await execution.result() == "value"
    assert (parents, leaf.runs) == (["entered"], 1)


@pytest.mark.guarantee("G3")
async def test_a_parent_cut_by_a_crash_is_entered_again_as_the_same_attempt_and_reuses_its_children() -> None:
    app, first, second = App(), Body("one"), Body("two", blocked=True)
    attempts: list[int] = []

    async def parent() -> str:
        attempts.append(current_step().attempt)
        return await current_step().run("first", first) + await current_step().run("second", second)

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("parent", parent, retries=0)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await second.started.wait()
        await t.crash()
        second.release.set()
        assert await execution.result() == "onetwo"
    assert (attempts, first.runs, second.runs) == ([1, 1], 1, 2)


async def test_a_parent_completes_when_the_children_that_it_started_have() -> None:
    app, child = App(), Body(blocked=True)
    parent_returned = asyncio.Event()
    kept: list[asyncio.Task[str]] = []

    async def parent() -> str:
        kept.append(asyncio.create_task(current_step().run("child", child)))
        await child.started.wait()
        parent_returned.set()
        return "parent"

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("parent", parent)

    async with sandbox(app):
        execution = await flow.trigger()
        await parent_returned.wait()
        await asyncio.sleep(0.01)
        assert (await statuses(execution)).get("parent") != "completed"
        assert await execution.status() == "running"
        child.release.set()
        assert await execution.result() == "parent"
        found = await by_path(execution)
    assert {path: step.status for path, step in found.items()} == {"parent": "completed", "parent/child": "completed"}
    assert (child.runs, child.cancelled) == (1, 0)


async def test_a_task_that_has_not_run_yet_when_the_body_returns_is_awaited_or_refused_but_never_half_done() -> None:
    app, child = App(), Body()
    kept: list[asyncio.Task[str]] = []

    async def parent() -> str:
        kept.append(asyncio.create_task(current_step().run("child", child)))
        return "parent"

    @app.workflow
    async def flow(step: Step) -> str:
        value = await step.run("parent", parent)
        await asyncio.wait(kept)
        return value

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == "parent"
        recorded = (await statuses(execution)).get("parent/child")
    error = kept[0].exception()
    assert (child.runs, recorded, error) == (1, "completed", None) or (
        (child.runs, recorded) == (0, None) and isinstance(error, WorkflowCodeError)
    )


async def test_later_calls_in_the_scope_of_a_finished_body_raise() -> None:
    app, late, go_on = App(), Body(), asyncio.Event()
    kept: list[asyncio.Task[str]] = []

    async def parent() -> str:
        here = current_step()

        async def straggler() -> str:
            await go_on.wait()
            return await here.run("late", late)

        kept.append(asyncio.create_task(straggler()))
        return "parent"

    @app.workflow
    async def flow(step: Step) -> str:
        value = await step.run("parent", parent)
        go_on.set()
        await asyncio.wait(kept)
        return value

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == "parent"
        assert set(await statuses(execution)) == {"parent"}
    with pytest.raises(WorkflowCodeError, match="'parent'"):
        kept[0].result()
    assert late.runs == 0


async def test_a_failing_parent_cancels_the_children_that_it_started_before_its_failure_is_seen() -> None:
    app, child = App(), Body(blocked=True)
    kept: list[asyncio.Task[str]] = []
    seen: list[int] = []

    async def parent() -> None:
        kept.append(asyncio.create_task(current_step().run("child", child)))
        await child.started.wait()
        raise ValueError("parent")

    @app.workflow
    async def flow(step: Step) -> None:
        try:
            await step.run("parent", parent, retries=0)
        except ValueError:
            seen.append(child.cancelled)

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        found = await statuses(execution)
    assert (found["parent"], found.get("parent/child", "cancelled")) == ("failed", "cancelled")
    assert (child.runs, child.cancelled, seen) == (1, 1, [1])


async def test_a_parent_with_steps_of_its_own_is_shown_as_running() -> None:
    app, child = App(), Body(blocked=True)

    async def parent(order: int) -> str:
        return await current_step().run("child", child)

    @app.workflow
    async def flow(step: Step) -> str:
        async def quick() -> None: ...

        await step.run("quick", quick)
        return await step.run("parent", parent, 7, retries=5)

    async with sandbox(app):
        execution = await flow.trigger()
        await child.started.wait()
        await asyncio.sleep(0.02)
        shown = (await by_path(execution))["parent"]
        assert (shown.status, shown.attempt, shown.input, shown.output) == ("running", 1, [7], None)
        assert shown.finished_at is None
        child.release.set()
        await execution.result()
        assert (await by_path(execution))["parent"].status == "completed"


async def test_a_body_that_takes_longer_than_a_second_is_shown_as_running() -> None:
    app, body = App(), Body(blocked=True)

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("slow", body)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await body.started.wait()
        assert await execution.steps() == []
        t.clock.move_to(t.clock.now() + 1_100_000)
        async for _ in execution.watch():
            if await execution.steps():
                break
        assert await statuses(execution) == {"slow": "running"}
        body.release.set()
        await execution.result()
        assert await statuses(execution) == {"slow": "completed"}


async def test_steps_are_listed_in_the_order_of_their_start() -> None:
    app, leaf = App(), Body()

    async def parent() -> None:
        for name in "yx":
            await current_step().run(name, leaf)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("b", leaf)
        await step.run("a", parent)
        await step.run("0", leaf)

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        assert list(await statuses(execution)) == ["b", "a", "a/y", "a/x", "0"]


@pytest.mark.guarantee("G6")
async def test_a_body_that_only_waits_parks_and_is_entered_again_as_the_same_attempt() -> None:
    app, leaf = App(), Body()
    attempts: list[int] = []

    async def parent() -> str:
        here = current_step()
        attempts.append(here.attempt)
        value = await here.run("leaf", leaf)
        await here.sleep("nap", HOUR)
        return value

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("parent", parent, retries=0)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        info = await execution.info()
        assert (info.status, info.waiting_for) == ("sleeping", "parent/nap")
        assert (await statuses(execution))["parent"] == "running"
        await t.advance(HOUR)
        assert await execution.result() == "value"
    assert (attempts, leaf.runs) == ([1, 1], 1)


async def test_parallel_parents_that_wait_park_together() -> None:
    app, leaf = App(), Body()

    async def parent(number: int) -> int:
        await current_step().run("leaf", leaf)
        await current_step().sleep("nap", f"{number} hours")
        return number

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await asyncio.gather(*(step.run(f"p{n}", parent, n) for n in (1, 2, 3)))

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("3 hours")
        assert await execution.result() == [1, 2, 3]
    assert leaf.runs == 3


async def test_a_nested_sleep_keeps_its_deadline_over_a_retry_of_its_parent() -> None:
    app = App()
    attempts: list[int] = []

    async def parent() -> str:
        here = current_step()
        attempts.append(here.attempt)
        await here.sleep("nap", "3 seconds")
        if here.attempt == 1:
            raise ConnectionError
        return "done"

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("parent", parent, retries=RetryPolicy(delay=1, jitter=0))

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("4 seconds")
        assert await execution.result() == "done"
    assert attempts == [1, 2]


async def test_nested_steps_in_thread_bodies() -> None:
    app = App()
    threads: set[int] = set()

    def leaf(number: int) -> int:
        threads.add(threading.get_ident())
        return number * 2

    def parent() -> int:
        here = current_step(SyncStep)
        return here.run("a", leaf, 1) + here.run("b", leaf, 2)

    @app.workflow
    async def flow(step: Step) -> int:
        return await step.run("parent", parent)

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == 6
        assert set(await statuses(execution)) == {"parent", "parent/a", "parent/b"}
    assert threading.get_ident() not in threads


def test_nested_steps_of_plain_workflows_run_in_the_same_thread() -> None:
    app = App(database="sqlite://")
    threads: list[int] = []

    @app.workflow
    def flow(step: SyncStep) -> str:
        def leaf() -> str:
            threads.append(threading.get_ident())
            return step.path

        def parent() -> str:
            threads.append(threading.get_ident())
            return step.run("leaf", leaf)

        threads.append(threading.get_ident())
        return step.run("parent", parent)

    assert app.execute(flow) == "parent/leaf"
    assert len(set(threads)) == 1


async def test_a_nested_failure_can_be_handled_by_the_parent() -> None:
    app, fallback = App(), Body("fallback")

    async def fail() -> None:
        raise ValueError("no")

    async def parent() -> str:
        try:
            await current_step().run("fail", fail, retries=0)
        except ValueError:
            return await current_step().run("fallback", fallback)
        return "no failure"

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("parent", parent)

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == "fallback"
        assert await statuses(execution) == {
            "parent": "completed",
            "parent/fail": "failed",
            "parent/fallback": "completed",
        }


async def test_gather_inside_a_body() -> None:
    app, leaf = App(), Body()

    async def parent() -> list[str]:
        return await asyncio.gather(*(current_step().run(f"leaf-{n}", leaf) for n in range(10)))

    @app.workflow
    async def flow(step: Step) -> list[str]:
        return await step.run("parent", parent)

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == ["value"] * 10
        assert len(await execution.steps()) == 11


@pytest.mark.guarantee("G8")
async def test_cancelling_reaches_nested_bodies_and_nothing_further_starts() -> None:
    app, child, never = App(), Body(blocked=True), Body()

    async def parent() -> None:
        try:
            await current_step().run("child", child)
        finally:
            await current_step().run("never", never)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("parent", parent)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await child.started.wait()
        await execution.cancel()
        await t.settle()
        assert await execution.status() == "cancelled"
    assert (child.runs, child.cancelled, never.runs) == (1, 1, 0)
