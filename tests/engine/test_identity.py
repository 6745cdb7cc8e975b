"""A step is known by its name within its scope."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stepwell import App, Execution, Step, StepInfo, SyncStep, current_step
from stepwell.errors import ExecutionFailedError, InvalidInputError, NoStepContextError
from stepwell.testing import sandbox

HOUR = "1 hour"


class Counter:
    """A body that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self) -> int:
        self.runs += 1
        return self.runs


async def echo(value: object) -> object:
    return value


async def the_step(execution: Execution[Any], path: str) -> StepInfo:
    return next(step for step in await execution.steps() if step.path == path)


async def paths(execution: Execution[Any]) -> list[str]:
    return [step.path for step in await execution.steps()]


# ------------------------------------------------------------------------------------------------- duplicates


@pytest.mark.parity("P4.5")
@pytest.mark.parity("P5.3")
async def test_the_same_name_again_gives_the_first_result_without_running() -> None:
    app, body = App(), Counter()

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return [await step.run("count", body), await step.run("count", body)]

    async with sandbox(app):
        assert await (await flow.trigger()).result() == [1, 1]
        assert body.runs == 1


@pytest.mark.parity("P5.3")
async def test_concurrent_calls_with_one_name_run_once() -> None:
    app, release = App(), asyncio.Event()
    starts: list[str] = []

    async def body() -> str:
        starts.append("start")
        await release.wait()
        return "value"

    @app.workflow
    async def flow(step: Step) -> list[str]:
        calls = [asyncio.create_task(step.run("one", body)) for _ in range(3)]
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(release.set)
        return await asyncio.gather(*calls)

    async with sandbox(app):
        assert await (await flow.trigger()).result() == ["value"] * 3
        assert starts == ["start"]


async def test_a_repeat_of_a_failed_step_raises_its_failure_without_running() -> None:
    app = App()
    runs: list[str] = []

    async def fail() -> None:
        runs.append("run")
        raise ValueError("no")

    @app.workflow
    async def flow(step: Step) -> list[str]:
        messages: list[str] = []
        for _ in range(2):
            try:
                await step.run("fail", fail, retries=0)
            except ValueError as error:
                messages.append(str(error))
        return messages

    async with sandbox(app):
        assert await (await flow.trigger()).result() == ["no", "no"]
        assert runs == ["run"]


@pytest.mark.parity("P4.5")
async def test_a_repeat_with_other_arguments_gives_the_first_result_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> list[object]:
        return [await step.run("echo", echo, 1), await step.run("echo", echo, 2)]

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == [1, 1]
        assert (await the_step(execution, "echo")).flag == "repeated"

    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert ["'echo'" in record.getMessage() for record in warnings] == [True]


async def test_a_repeat_with_another_function_is_flagged() -> None:
    app, first, second = App(), Counter(), echo

    @app.workflow
    async def flow(step: Step) -> object:
        await step.run("x", first)
        return await step.run("x", second, "other")

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == 1
        assert (await the_step(execution, "x")).flag == "repeated"


async def test_a_repeat_with_a_closure_made_anew_is_not_flagged(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> int:
        total = 0
        for number in range(2):

            async def body(number: int = number) -> int:
                return number

            total += await step.run("same", body)
        return total

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == 0
        assert (await the_step(execution, "same")).flag is None
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_strict_names_refuse_a_repeat_with_other_arguments() -> None:
    app = App(strict_names=True)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("echo", echo, 1)
        await step.run("echo", echo, 2)

    async with sandbox(app):
        with pytest.raises(ExecutionFailedError, match="'echo'") as caught:
            await (await flow.trigger()).result()
    assert caught.value.error_type.endswith("WorkflowCodeError")


async def test_strict_names_allow_an_equal_repeat() -> None:
    app = App(strict_names=True)

    @app.workflow
    async def flow(step: Step) -> list[object]:
        return [await step.run("echo", echo, 1), await step.run("echo", echo, 1)]

    async with sandbox(app):
        assert await (await flow.trigger()).result() == [1, 1]


# ------------------------------------------------------------------------------------------------- two waiters


async def test_cancelling_one_of_two_waiters_leaves_the_body_running() -> None:
    app, started, release = App(), asyncio.Event(), asyncio.Event()
    events: list[str] = []

    async def body() -> str:
        events.append("start")
        started.set()
        try:
            await release.wait()
        except asyncio.CancelledError:
            events.append("cancelled")
            raise
        return "value"

    @app.workflow
    async def flow(step: Step) -> str:
        first = asyncio.create_task(step.run("shared", body))
        second = asyncio.create_task(step.run("shared", body))
        await started.wait()
        first.cancel()
        await asyncio.wait([first])
        release.set()
        return await second

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == "value"
        assert (await the_step(execution, "shared")).status == "completed"
    assert events == ["start"]


async def test_cancelling_the_last_waiter_cancels_the_body() -> None:
    app, started = App(), asyncio.Event()
    events: list[str] = []

    async def body() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            events.append("ended")

    @app.workflow
    async def flow(step: Step) -> None:
        calls = [asyncio.create_task(step.run("shared", body)) for _ in range(2)]
        await started.wait()
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        assert (await the_step(execution, "shared")).status == "cancelled"
    assert events == ["ended"]


async def cancel_the_caller_in_whose_task_the_body_runs() -> list[str]:
    """The body's events, and the result of the other caller."""
    app, started, release = App(), asyncio.Event(), asyncio.Event()
    events: list[str] = []

    async def body() -> str:
        events.append("start")
        started.set()
        await release.wait()
        return "value"

    @app.workflow
    async def flow(step: Step) -> str:
        main = asyncio.current_task()
        assert main is not None
        other: list[asyncio.Task[str]] = []

        async def disturb() -> None:
            await started.wait()
            other.append(asyncio.create_task(step.run("shared", body)))
            await asyncio.sleep(0)
            main.cancel()

        disturbing = asyncio.create_task(disturb())
        try:
            await step.run("shared", body)
        except asyncio.CancelledError:
            main.uncancel()
        await disturbing
        release.set()
        return await other[0]

    async with sandbox(app):
        return [*events, await (await flow.trigger()).result(), *events]


async def test_cancelling_the_caller_in_whose_task_the_body_runs_leaves_the_other_its_result() -> None:
    assert "value" in await cancel_the_caller_in_whose_task_the_body_runs()


@pytest.mark.xfail(reason="the body runs in the task of its first caller and begins anew for the second", strict=True)
async def test_cancelling_the_caller_in_whose_task_the_body_runs_does_not_start_it_again() -> None:
    assert await cancel_the_caller_in_whose_task_the_body_runs() == ["value", "start"]


# ------------------------------------------------------------------------------------------------- scopes


@pytest.mark.parity("P5.3")
async def test_one_name_under_different_parents_is_two_steps() -> None:
    app, leaf = App(), Counter()

    async def parent() -> int:
        return await current_step().run("leaf", leaf)

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return [await step.run("a", parent), await step.run("b", parent), await step.run("leaf", leaf)]

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == [1, 2, 3]
        assert sorted(await paths(execution)) == ["a", "a/leaf", "b", "b/leaf", "leaf"]


async def test_tasks_started_inside_a_body_inherit_its_scope() -> None:
    app = App()

    async def parent() -> object:
        return await asyncio.create_task(current_step().run("leaf", echo, "value"))

    @app.workflow
    async def flow(step: Step) -> object:
        return await step.run("parent", parent)

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == "value"
        assert sorted(await paths(execution)) == ["parent", "parent/leaf"]


async def test_an_execution_triggered_inside_a_body_has_a_scope_of_its_own() -> None:
    app = App()

    @app.workflow
    async def other(step: Step) -> str:
        await step.run("work", echo, 1)
        return step.path

    @app.workflow
    async def flow(step: Step) -> str:
        async def start() -> str:
            return (await other.trigger()).id

        return await step.run("start", start)

    async with sandbox(app):
        triggered = other.get_execution(await (await flow.trigger()).result())
        assert await triggered.result() == ""
        assert await paths(triggered) == ["work"]


async def test_branches_may_replay_in_another_order() -> None:
    app, runs = App(), Counter()
    orders = [["a", "b", "c"], ["c", "b", "a"]]

    @app.workflow
    async def flow(step: Step) -> dict[str, int]:
        names = orders.pop(0)
        found = await asyncio.gather(*(step.run(name, runs) for name in names))
        await step.sleep(HOUR)
        return dict(zip(names, found, strict=True))

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        assert await execution.result() == {"a": 1, "b": 2, "c": 3}
        assert runs.runs == 3


@pytest.mark.parity("P1.10")
async def test_a_step_added_in_front_does_not_shift_results(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/x.db"
    old, new, runs = App(), App(), Counter()

    @old.workflow(name="flow")
    async def first(step: Step) -> list[int]:
        found = [await step.run("one", runs), await step.run("two", runs)]
        await step.sleep("pause", HOUR)
        return found

    @new.workflow(name="flow")
    async def second(step: Step) -> list[int]:
        added = await step.run("zero", runs)
        found = [added, await step.run("one", runs), await step.run("two", runs)]
        await step.sleep("pause", HOUR)
        return found

    async with sandbox(old, database=database) as t:
        execution_id = (await first.trigger(id="e")).id
        await t.settle()
    async with sandbox(new, database=database) as t:
        await t.advance(HOUR)
        assert await second.get_execution(execution_id).result() == [3, 1, 2]


# ------------------------------------------------------------------------------------------------- other kinds


async def test_a_recorded_path_met_with_another_kind_runs_nothing_and_waits_for_older_code(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/x.db"
    old, new, body, later = App(), App(), Counter(), Counter()

    @old.workflow(name="flow")
    async def first(step: Step) -> int:
        value = await step.run("x", body)
        await step.sleep("pause", HOUR)
        return value

    @new.workflow(name="flow")
    async def second(step: Step) -> int:
        await step.now("x")
        return await step.run("later", later)

    async with sandbox(old, database=database) as t:
        await first.trigger(id="e")
        await t.settle()
    async with sandbox(new, database=database) as t:
        await t.advance(HOUR)
        info = await second.get_execution("e").info()
        assert (info.status, later.runs) == ("queued", 0)
        assert "'x'" in (info.waiting_for or "")
        restarted_at = info.wake_at
    async with sandbox(old, database=database, start=restarted_at) as t:
        assert await first.get_execution("e").result() == 1
    assert body.runs == 1


async def test_two_kinds_under_one_name_end_as_a_mismatch_that_code_cannot_swallow() -> None:
    app = App()
    after: list[str] = []

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("x", echo, 1)
        try:
            await step.sleep("x", HOUR)
        except Exception:
            after.append("swallowed")
        await step.run("after", echo, 1)
        after.append("went on")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        info = await execution.info()
        assert info.status == "queued"
        assert "'x'" in (info.waiting_for or "")
        assert "went on" not in after
        assert await paths(execution) == ["x"]


# ------------------------------------------------------------------------------------------------- names


async def test_special_characters_in_names_cannot_meet_other_paths() -> None:
    app, leaf = App(), Counter()

    async def parent() -> int:
        return await current_step().run("b", leaf)

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return [
            await step.run("a", parent),
            await step.run("a/b", leaf),
            await step.run("a%2Fb", leaf),
            await step.run("#on_error", leaf),
        ]

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == [1, 2, 3, 4]
        found = {step.path: step.name for step in await execution.steps()}
    assert found == {
        "a": "a",
        "a/b": "b",
        "a%2Fb": "a/b",
        "a%252Fb": "a%2Fb",
        "%23on_error": "#on_error",
    }


@pytest.mark.parametrize("name", ["x", "Größe", "ünïcödé 🌍", "a b", "ä" * 200, "  ", "日本語"])
async def test_any_printable_text_is_a_name(name: str) -> None:
    app, runs = App(), Counter()

    @app.workflow
    async def flow(step: Step) -> int:
        value = await step.run(name, runs)
        await step.sleep(HOUR)
        return value

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        assert await execution.result() == 1
        assert next(step.name for step in await execution.steps()) == name


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\x00", "\x7f", "\x85", "\ud800", 7, None])
async def test_bad_names_are_refused_before_anything_runs(name: Any) -> None:
    app, runs = App(), Counter()
    refusals: list[str] = []

    @app.workflow
    async def flow(step: Step) -> None:
        try:
            await step.run(name, runs)
        except InvalidInputError as error:
            refusals.append(str(error))

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        assert await execution.steps() == []
    assert runs.runs == 0
    assert "name" in refusals[0]


# ------------------------------------------------------------------------------------------------- step.do


async def test_do_runs_a_local_function_as_a_step_with_all_its_arguments() -> None:
    app = App()
    runs: list[str] = []

    @app.workflow
    async def flow(step: Step) -> str:
        @step.do("greet")
        async def greet(name: str, *, greeting: str) -> str:
            runs.append(name)
            return f"{greeting} {name}"

        value = await greet("Ada", greeting="Hello")
        await step.sleep(HOUR)
        return value

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        assert await execution.result() == "Hello Ada"
        assert (await the_step(execution, "greet")).kind == "run"
    assert runs == ["Ada"]


async def test_do_makes_a_plain_function_awaitable() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> int:
        @step.do("double")
        def double(number: int) -> int:
            assert threading.current_thread() is not threading.main_thread()
            return number * 2

        return await double(21)

    async with sandbox(app):
        assert await (await flow.trigger()).result() == 42


async def test_do_takes_the_options_of_run() -> None:
    app, runs = App(), Counter()

    @app.workflow
    async def flow(step: Step) -> None:
        @step.do("fail", retries=0, input={"order": 7})
        async def fail() -> None:
            await runs()
            raise ValueError("no")

        await fail()

    async with sandbox(app):
        execution = await flow.trigger()
        with pytest.raises(ExecutionFailedError, match="no"):
            await execution.result()
        assert (await the_step(execution, "fail")).input == {"order": 7}
    assert runs.runs == 1


async def test_do_with_a_function_as_argument_names_step_run() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> str:
        with pytest.raises(TypeError, match=r"step\.run"):
            step.do("name", echo)
        return "refused"

    async with sandbox(app):
        assert await (await flow.trigger()).result() == "refused"


def test_do_in_plain_workflows_runs_in_the_same_thread() -> None:
    app = App(database="sqlite://")

    @app.workflow
    def flow(step: SyncStep) -> bool:
        @step.do("where")
        def where(*, wanted: int) -> bool:
            return threading.get_ident() == wanted

        return where(wanted=threading.get_ident())

    assert app.execute(flow) is True


# ------------------------------------------------------------------------------------------------- facts


async def test_facts_of_a_body() -> None:
    app = App()

    async def body() -> list[Any]:
        here = current_step()
        return [here.execution_id, here.run_number, here.attempt, here.path, here.idempotency_key]

    @app.workflow
    async def flow(step: Step) -> list[Any]:
        async def parent() -> list[Any]:
            return await current_step().run("inner", body)

        return await step.run("outer", parent)

    async with sandbox(app):
        assert await (await flow.trigger(id="e")).result() == ["e", 1, 1, "outer/inner", "e/outer/inner/1"]


async def test_facts_of_the_execution() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> list[Any]:
        return [step.execution_id, step.run_number, step.created_at.isoformat(), step.attempt, step.path]

    async with sandbox(app) as t:
        execution = await flow.trigger(id="e", delay=HOUR)
        await t.advance(HOUR)
        created_at = (await execution.info()).created_at
        assert await execution.result() == ["e", 1, created_at.isoformat(), 1, ""]


async def test_the_idempotency_key_is_the_same_in_every_attempt_and_after_a_crash() -> None:
    app, blocked = App(), asyncio.Event()
    keys: list[str] = []

    async def charge() -> None:
        keys.append(current_step().idempotency_key)
        if len(keys) < 3:
            raise ConnectionError
        if len(keys) == 3:
            blocked.set()
            await asyncio.Event().wait()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("charge", charge, retry_delay=0)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await blocked.wait()
        await t.crash()
        await execution.result()
    assert len(keys) == 4
    assert len(set(keys)) == 1


async def test_two_steps_have_two_idempotency_keys() -> None:
    app = App()

    async def key() -> str:
        return current_step().idempotency_key

    @app.workflow
    async def flow(step: Step) -> set[str]:
        return {await step.run("a", key), await step.run("b", key)}

    async with sandbox(app):
        assert len(await (await flow.trigger()).result()) == 2


async def test_the_log_of_a_step_carries_execution_and_path(caplog: pytest.LogCaptureFixture) -> None:
    app = App()
    caplog.set_level(logging.INFO)

    async def body() -> None:
        current_step().log.info("hello from the body")

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("speak", body)

    async with sandbox(app):
        await (await flow.trigger(id="e")).result()

    record: Any = next(record for record in caplog.records if record.getMessage() == "hello from the body")
    assert (record.execution_id, record.step) == ("e", "speak")


def test_current_step_outside_a_workflow_says_so() -> None:
    with pytest.raises(NoStepContextError, match="current_step"):
        current_step()


def test_a_thread_without_the_context_is_refused_and_carry_brings_it() -> None:
    app = App(database="sqlite://")

    @app.workflow
    def flow(step: SyncStep) -> list[str]:
        def branch(name: str) -> str:
            return step.run(name, lambda: name.upper())

        with ThreadPoolExecutor(2) as pool:
            refused = pool.submit(branch, "bare").exception()
            assert isinstance(refused, NoStepContextError)
            assert "step.carry" in str(refused)
            return list(pool.map(step.carry(branch), ["a", "b"]))

    assert app.execute(flow) == ["A", "B"]


async def test_carry_keeps_the_scope_of_the_body_it_was_made_in() -> None:
    app = App()

    def parent() -> str:
        here = current_step(SyncStep)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(here.carry(lambda: here.run("leaf", lambda: "value"))).result()

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("parent", parent)

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == "value"
        assert sorted(await paths(execution)) == ["parent", "parent/leaf"]
