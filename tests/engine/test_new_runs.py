"""Restart, retry and fork: what a new run keeps, what it makes anew, and what stays of the old one."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from stepwell import App, Step, Workflow, current_step
from stepwell.errors import (
    ExecutionFailedError,
    ExecutionNotFoundError,
    InvalidInputError,
    InvalidTransitionError,
    WorkflowCodeError,
)
from stepwell.testing import sandbox
from tests.engine.conftest import Ledger, in_memory, statuses, until

pytestmark = pytest.mark.anyio


def three_steps(app: App, ledger: Ledger) -> Workflow[str, list[str]]:
    """Steps a, b and c; each notes its name, the input, and gives its idempotency key."""

    async def body(input: str) -> str:
        step = current_step()
        ledger.append(f"{step.path} {input}")
        return step.idempotency_key

    @app.workflow(tags=["three"])
    async def workflow(step: Step, input: str) -> list[str]:
        return [await step.run(name, body, input) for name in ("a", "b", "c")]

    return workflow


async def test_restart_runs_everything_again_under_new_keys(ledger: Ledger) -> None:
    app = App()
    workflow = three_steps(app, ledger)

    async with sandbox(app):
        execution = await workflow.trigger("x", id="e")
        assert await execution.result(5) == ["e/a/1", "e/b/1", "e/c/1"]
        await execution.restart()
        assert await execution.result(5) == ["e/a/2", "e/b/2", "e/c/2"]

        assert ledger == ["a x", "b x", "c x"] * 2
        assert [(run.run, run.status, run.input) for run in await execution.runs()] == [
            (1, "completed", "x"),
            (2, "completed", "x"),
        ]
        assert [step.output for step in await execution.steps(1)] == ["e/a/1", "e/b/1", "e/c/1"]
        assert (await execution.info()).run_number == 2


async def test_restart_from_a_step_keeps_what_was_before_it(ledger: Ledger) -> None:
    app = App()
    workflow = three_steps(app, ledger)

    async with sandbox(app):
        execution = await workflow.trigger("x", id="e")
        await execution.result(5)
        await execution.restart(from_step="b", input="y")
        assert await execution.result(5) == ["e/a/1", "e/b/2", "e/c/2"]
        # A run that was itself begun from a step can be taken up again.
        await execution.restart(from_step="c")
        assert await execution.result(5) == ["e/a/1", "e/b/2", "e/c/3"]

    assert ledger == ["a x", "b x", "c x", "b y", "c y", "c y"]


@pytest.mark.parametrize("action", ["restart", "fork"])
async def test_an_unknown_step_is_named_with_those_that_are_close(ledger: Ledger, action: str) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.run("charge", ledger.note, "charge")

    async with sandbox(app):
        execution = await workflow.trigger()
        await execution.result(5)
        with pytest.raises(
            InvalidInputError, match=r"no step 'charg' is recorded in its run 1. Did you mean 'charge'?"
        ):
            await getattr(execution, action)(from_step="charg")
        with pytest.raises(InvalidInputError, match="from_step must be the path of a step"):
            await getattr(execution, action)(from_step="")
        assert ((await execution.info()).run_number, len((await app.list_executions()).executions)) == (1, 1)


@pytest.mark.parametrize("action", ["restart", "fork"])
async def test_another_input_is_checked_before_anything_is_written(ledger: Ledger, action: str) -> None:
    app = App()
    workflow = three_steps(app, ledger)

    async with sandbox(app):
        execution = await workflow.trigger("x")
        await execution.result(5)
        for handle in (execution, app.get_execution(execution.id)):
            with pytest.raises(InvalidInputError, match="Workflow 'workflow'"):
                await getattr(handle, action)(input=5)
        assert ((await execution.info()).run_number, len((await app.list_executions()).executions)) == (1, 1)


async def test_without_the_code_an_input_is_json(ledger: Ledger, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    app, other = App(), App(database=url)
    workflow = three_steps(app, ledger)

    async with sandbox(app, database=url), other.connected():
        execution = await workflow.trigger("x")
        await execution.result(5)
        remote = other.get_execution(execution.id)
        for value in ({1, 2}, float("nan"), "\ud800"):
            with pytest.raises(InvalidInputError, match="code of workflow 'workflow' is not in this program"):
                await remote.restart(input=value)
        await remote.restart(input="z")
        await remote.result(5)
        assert (await execution.info()).input == "z"


async def test_retry_keeps_every_result_and_the_keys(ledger: Ledger) -> None:
    app = App()
    broken = True

    async def charge() -> str:
        ledger.append(current_step().idempotency_key)
        if broken:
            raise OSError("gone")
        return "paid"

    @app.workflow(retries=0)
    async def workflow(step: Step) -> str:
        uuid = await step.run("reserve", ledger.note, "reserve")
        with contextlib.suppress(OSError):
            await step.run("optional", charge)
        async with asyncio.TaskGroup() as group:
            group.create_task(step.sleep("other", "1 hour"))
            paid = group.create_task(step.run("charge", charge))
        return f"{uuid} {paid.result()}"

    async with sandbox(app) as t:
        execution = await workflow.trigger(id="e")
        with pytest.raises(ExecutionFailedError):
            await execution.result(5)
        assert await statuses(execution) == {
            "reserve": "completed",
            "optional": "failed",
            "other": "cancelled",
            "charge": "failed",
        }
        broken = False
        await execution.retry()
        await t.advance("1 hour")
        assert await execution.result(5) == "reserve paid"
        assert set((await statuses(execution)).values()) == {"completed"}
        first, second = await execution.runs()
        assert (first.status, second.status) == ("failed", "completed")
        assert first.error is not None
        assert second.error is None

    assert ledger == ["reserve", "e/optional/1", "e/charge/1", "e/optional/1", "e/charge/1"]


async def test_retry_is_for_what_has_ended_badly(ledger: Ledger) -> None:
    app = App()
    workflow = three_steps(app, ledger)

    async with sandbox(app):
        execution = await workflow.trigger("x", delay="1 hour")
        with pytest.raises(InvalidTransitionError, match=r"Cannot retry execution .*: it is queued"):
            await execution.retry()
        await execution.cancel()
        await execution.retry()
        assert await execution.result(5) is not None
        with pytest.raises(InvalidTransitionError, match=r"Cannot retry execution .*: it is completed"):
            await execution.retry()


async def test_failures_inside_a_completed_step_stay_with_it(ledger: Ledger) -> None:
    app = App()
    broken = True

    @app.workflow(retries=0)
    async def workflow(step: Step) -> str:
        async def outer() -> str:
            try:
                await step.run("inner", fail)
            except OSError:
                return "without"
            return "with"

        async def fail() -> None:
            ledger.append("inner")
            raise OSError("gone")

        first = await step.run("outer", outer)
        if broken:
            raise ValueError("later")
        return first

    async with sandbox(app):
        execution = await workflow.trigger()
        with pytest.raises(ExecutionFailedError):
            await execution.result(5)
        broken = False
        await execution.retry()
        assert await execution.result(5) == "without"
        assert await statuses(execution) == {"outer": "completed", "outer/inner": "failed"}
        # Attempts are kept with their steps.
        assert [len(step.attempts) for step in await execution.steps()] == [0, 1]

    assert ledger == ["inner"]


async def test_steps_around_and_inside_of_the_one_to_begin_from_run_again(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        async def outer() -> None:
            await step.run("first", ledger.note, "first")
            await step.run("second", second)

        async def second() -> None:
            await step.run("inside", ledger.note, "inside")

        await step.run("before", ledger.note, "before")
        await step.run("outer", outer)

    async with sandbox(app):
        execution = await workflow.trigger()
        await execution.result(5)
        ledger.clear()
        await execution.restart(from_step="outer/second")
        await execution.result(5)

    assert ledger == ["inside"]


async def test_a_deadline_that_passed_later_is_decided_anew(ledger: Ledger) -> None:
    app = App()
    slow = True

    @app.workflow
    async def workflow(step: Step) -> None:
        async def branch() -> None:
            await step.run("work", ledger.note, "work")
            if slow:
                await step.sleep("too long", "1 day")

        await step.within("limit", "1 hour", branch())

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("1 hour")
        assert await execution.status() == "failed"
        slow = False
        await execution.restart(from_step="work")
        await execution.result(5)

    assert ledger == ["work", "work"]


async def test_restart_of_a_running_one_cancels_it_first(ledger: Ledger) -> None:
    """The old body is cancelled; what it swallows and returns is not recorded in the new run."""
    app = App()
    swallowed = asyncio.Event()

    async def stubborn() -> str:
        ledger.append("began")
        if len(ledger) == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await swallowed.wait()
                return "late"
        return "fresh"

    @app.workflow
    async def workflow(step: Step) -> str:
        return await step.run("work", stubborn)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        waiting = asyncio.create_task(execution.result(5))
        await asyncio.sleep(0)
        await execution.restart()
        swallowed.set()
        assert await waiting == "fresh"
        await t.settle()
        assert await execution.result(5) == "fresh"
        old = (await execution.runs())[0]
        assert (old.status, old.reason) == ("cancelled", "restarted")

    assert ledger == ["began", "began"]


@pytest.mark.parametrize("status", ["queued", "sleeping", "paused", "completed", "failed", "cancelled"])
async def test_restart_from_every_status(ledger: Ledger, status: str) -> None:
    app = App()
    outcome = status

    @app.workflow
    async def workflow(step: Step) -> str:
        await step.run("note", ledger.note, "ran")
        if outcome == "failed":
            raise ValueError("no")
        if outcome != "completed":
            await step.sleep("long", "1 day")
        return "done"

    async with sandbox(app) as t:
        execution = await workflow.trigger(delay="1 hour" if status == "queued" else None)
        await t.settle()
        if status == "paused":
            await execution.pause()
        elif status == "cancelled":
            await execution.cancel()
        assert await execution.status() == status
        outcome = "completed"
        await execution.restart()
        assert await execution.result(5) == "done"

    assert len(ledger) == (1 if status == "queued" else 2)


async def test_a_new_run_has_a_timeout_and_a_start_of_its_own(ledger: Ledger) -> None:
    app = App()

    @app.workflow(timeout="1 hour")
    async def workflow(step: Step) -> None:
        await step.sleep("long", "1 day")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("1 hour")
        first = await execution.info()
        assert first.status == "failed"
        await execution.retry()
        await t.advance("59 minutes")
        second = await execution.info()
        assert (second.status, second.started_at) == ("sleeping", first.finished_at)
        await t.advance("1 minute")
        assert await execution.status() == "failed"


async def test_fork_leaves_the_original_alone(ledger: Ledger) -> None:
    app = App()
    workflow = three_steps(app, ledger)

    async with sandbox(app):
        execution = await workflow.trigger("x", id="e", tags=["mine"])
        await execution.result(5)
        before = await execution.info()
        fork = await execution.fork(from_step="b", input="y")
        assert await fork.result(5) == ["e/a/1", f"{fork.id}/b/1", f"{fork.id}/c/1"]
        info = await fork.info()
        assert (info.workflow, info.tags, info.run_number, info.parent_id) == ("workflow", ("mine", "three"), 1, None)
        assert await execution.info() == before
        whole = await execution.fork()
        assert await whole.result(5) == [f"{whole.id}/{name}/1" for name in "abc"]

    assert ledger == ["a x", "b x", "c x", "b y", "c y", "a x", "b x", "c x"]


async def test_fork_of_one_that_sleeps(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.run("before", ledger.note, "before")
        await step.sleep("long", "1 day")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        fork = await execution.fork(from_step="long")
        await t.settle()
        assert await statuses(fork) == {"before": "completed", "long": "sleeping"}
        await t.advance("1 day")
        assert [await execution.status(), await fork.status()] == ["completed", "completed"]

    assert ledger == ["before"]


async def test_a_body_that_runs_again_does_not_fork_twice(ledger: Ledger) -> None:
    app = App()
    workflow = three_steps(app, ledger)

    @app.workflow
    async def forking(step: Step) -> str:
        async def fork() -> str:
            made = await workflow.get_execution("e").fork()
            ledger.append("forked")
            if ledger.count("forked") == 1:
                raise OSError("died")
            return made.id

        return await step.run("fork", fork, retry_delay=0)

    async with sandbox(app) as t:
        await (await workflow.trigger("x", id="e")).result(5)
        execution = await forking.trigger()
        made = await execution.result(5)
        await t.settle()
        assert {info.id for info in (await workflow.list_executions()).executions} == {"e", made}


@pytest.mark.parametrize("action", ["pause", "resume", "wake", "restart", "retry", "fork"])
async def test_not_in_workflow_code_and_not_without_an_execution(action: str) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await getattr(app.get_execution("other"), action)()

    async with sandbox(app):
        with pytest.raises(ExecutionNotFoundError):
            await getattr(app.get_execution("other"), action)()
        with pytest.raises(ExecutionFailedError) as failed:
            await (await workflow.trigger()).result(5)
        assert isinstance(failed.value.__cause__, WorkflowCodeError)


async def test_two_restarts_at_once_begin_one_run(ledger: Ledger) -> None:
    app = App()
    workflow = three_steps(app, ledger)

    async with sandbox(app) as t:
        execution = await workflow.trigger("x")
        await execution.result(5)
        answers = await asyncio.gather(execution.restart(), execution.restart(), return_exceptions=True)
        await t.settle()
        assert (await execution.info()).run_number == 2
        [refused] = [answer for answer in answers if answer is not None]
        assert isinstance(refused, InvalidTransitionError)
        assert "in run 2 by now" in str(refused)


async def test_a_crash_loop_is_over_after_a_retry(ledger: Ledger) -> None:
    app = App()
    gate = asyncio.Event()

    async def deadly() -> None:
        ledger.append("began")
        await gate.wait()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.run("deadly", deadly)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        for crash in range(5):
            await until(lambda: len(ledger) == crash + 1)  # noqa: B023 - awaited in the same turn
            await t.crash()
        with pytest.raises(ExecutionFailedError, match="died, 5 times"):
            await execution.result(5)
        gate.set()
        await execution.retry()
        await execution.result(5)
        assert in_memory(t) == set()


# Children


def parent_and_child(app: App, ledger: Ledger) -> Workflow[None, str]:
    """The parent starts a child, does something, and waits for the child, which waits for an event."""

    @app.workflow
    async def child(step: Step) -> str:
        await step.run("note", ledger.note, "child")
        return await step.listen("go", returns=str)

    @app.workflow(retries=0)
    async def parent(step: Step) -> str:
        started = await step.start_workflow("start", child)
        await step.run("middle", ledger.note, "middle")
        return await step.wait_for_workflow("wait", started)

    return parent


async def test_a_restart_cancels_the_children_of_the_old_run(ledger: Ledger) -> None:
    app = App()
    workflow = parent_and_child(app, ledger)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        await execution.restart()
        await t.settle()
        children = {child.status: child for child in await execution.children()}
        assert set(children) == {"cancelled", "listening"}
        await app.get_execution(children["listening"].id).send_event("go", "done")
        assert await execution.result(5) == "done"

    assert sorted(ledger) == ["child", "child", "middle", "middle"]


async def test_a_child_whose_start_is_kept_goes_on(ledger: Ledger) -> None:
    app = App()
    workflow = parent_and_child(app, ledger)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        await execution.restart(from_step="middle")
        await t.settle()
        [child] = await execution.children()
        assert child.status == "listening"
        await app.get_execution(child.id).send_event("go", "done")
        assert await execution.result(5) == "done"

    assert sorted(ledger) == ["child", "middle", "middle"]


async def test_a_retry_starts_a_child_again_that_was_cancelled_with_its_parent(ledger: Ledger) -> None:
    app = App()
    workflow = parent_and_child(app, ledger)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        await execution.cancel()
        await execution.retry()
        await t.settle()
        children = {child.status: child for child in await execution.children()}
        assert set(children) == {"cancelled", "listening"}
        await app.get_execution(children["listening"].id).send_event("go", "done")
        assert await execution.result(5) == "done"

    assert sorted(ledger) == ["child", "child", "middle"]


async def test_events_and_ends_that_come_during_a_pause_are_there_afterwards(ledger: Ledger) -> None:
    app = App()
    workflow = parent_and_child(app, ledger)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        await execution.pause()
        [child] = await execution.children()
        handle = app.get_execution(child.id)
        await handle.pause()
        await handle.send_event("go", "done")
        await t.settle()
        assert (await handle.status(), await execution.status()) == ("paused", "paused")
        await handle.resume()
        assert await handle.result(5) == "done"
        await t.settle()
        assert (await execution.status(), in_memory(t)) == ("paused", set())
        await execution.resume()
        assert await execution.result(5) == "done"


async def test_a_received_event_stays_received(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> list[str]:
        first = await step.listen("first", event="go", returns=str)
        second = await step.listen("second", event="go", returns=str)
        return [first, second]

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        for payload in ("1", "2", "3"):
            await execution.send_event("go", payload)
        assert await execution.result(5) == ["1", "2"]
        await execution.restart(from_step="second")
        assert await execution.result(5) == ["1", "3"]
        await execution.restart()
        await t.settle()
        assert (await execution.status(), await statuses(execution)) == ("listening", {"first": "listening"})
