"""`step.emit`: what is emitted is there at once, in order, once, and survives crashes; followers see it live."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from stepwell import App, Execution, Step, StreamItem, SyncStep, current_step
from stepwell.errors import (
    CrashLoopError,
    ExecutionFailedError,
    ExecutionNotFoundError,
    InvalidInputError,
    NoStepContextError,
    SerializationError,
    WorkflowCodeError,
)
from stepwell.store.sqlite.store import SqliteStore
from stepwell.testing import sandbox
from tests.engine.conftest import Ledger, statuses

pytestmark = pytest.mark.anyio

HOUR = "1 hour"


async def stored(execution: Execution[Any], name: str = "s", after: int = 0) -> list[tuple[Any, int]]:
    """What stands in a stream now, as (value, take); the offsets are checked."""
    items = [item async for item in execution.stream(name, after, follow=False)]
    assert [item.offset for item in items] == list(range(after + 1, after + 1 + len(items)))
    return [(item.value, item.take) for item in items]


async def values(execution: Execution[Any], name: str = "s") -> list[Any]:
    return [value for value, _ in await stored(execution, name)]


class Talker:
    """A body that emits given words, one list for each time it begins, and stops dead where told."""

    def __init__(self, *lines: str, error: Exception | None = None) -> None:
        self.lines = [line.split() for line in lines]
        self.begun = 0
        self.reached = asyncio.Event()
        self._error = error

    async def __call__(self) -> int:
        line = self.lines[min(self.begun, len(self.lines) - 1)]
        self.begun += 1
        for word in line:
            if word == "STOP":
                self.reached.set()
                await asyncio.Event().wait()
            if word == "FAIL":
                raise ValueError("no")
            await current_step().emit("s", word)
        return self.begun


@pytest.fixture(autouse=True)
def no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Followers hear of everything at once, or the test does not end."""
    monkeypatch.setattr("stepwell.streams.POLL_SECONDS", 3_600)


# Following


async def test_followers_see_values_while_the_body_runs() -> None:
    app, go = App(), [asyncio.Event() for _ in range(3)]

    async def body() -> None:
        for number, gate in enumerate(go):
            await gate.wait()
            await current_step().emit("s", number)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("body", body)

    async with sandbox(app):
        execution = await flow.trigger()
        follower = aiter(execution.stream("s"))
        for number, gate in enumerate(go):
            gate.set()
            assert await anext(follower) == StreamItem(number + 1, number, 1)
        assert [item async for item in follower] == []
        assert await execution.status() == "completed"


async def test_a_follower_goes_on_from_an_offset() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        for number in range(5):
            await step.emit("s", number)

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        seen: list[int] = []
        async for item in execution.stream("s"):
            seen.append(item.value)
            if item.offset == 2:
                break
        seen += [item.value async for item in execution.stream("s", after=2)]
        assert seen == [0, 1, 2, 3, 4]
        assert [item async for item in execution.stream("s", after=5)] == []


@pytest.mark.parametrize("method", ["stream", "stream_news"])
async def test_a_value_that_comes_while_the_answer_is_on_its_way_is_seen(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer tells of nothing; until it arrives, there is something."""
    app, go, asked, answer = App(), asyncio.Event(), asyncio.Event(), asyncio.Event()
    ask: Any = getattr(SqliteStore, method)

    async def ask_slowly(*args: Any) -> Any:
        found = await ask(*args)
        asked.set()
        await answer.wait()
        return found

    monkeypatch.setattr(SqliteStore, method, ask_slowly)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("wait", go.wait)
        await step.emit("s", "value")
        await step.sleep("nap", HOUR)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        follower = asyncio.ensure_future(anext(aiter(execution.stream("s"))))
        await asked.wait()
        go.set()
        await t.settle()
        answer.set()
        assert await follower == StreamItem(1, "value", 1)


async def test_a_stream_that_nobody_has_written_to_is_waited_for() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.sleep("nap", HOUR)
        await step.emit("late", "here")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        late = asyncio.ensure_future(anext(aiter(execution.stream("late"))))
        never = asyncio.ensure_future(anext(aiter(execution.stream("never")), None))
        await t.settle()
        assert not late.done()
        await t.advance(HOUR)
        assert await late == StreamItem(1, "here", 1)
        assert await never is None


async def test_a_thousand_followers_get_everything() -> None:
    app, go = App(), asyncio.Event()

    async def body() -> None:
        for number in range(20):
            await current_step().emit("s", number)
            await asyncio.sleep(0)
            if number == 5:
                await go.wait()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("body", body)

    async def follow(execution: Execution[None]) -> list[int]:
        return [item.value async for item in execution.stream("s")]

    async with sandbox(app):
        execution = await flow.trigger()
        followers = [asyncio.create_task(follow(execution)) for _ in range(1_000)]
        await asyncio.sleep(0.05)
        go.set()
        assert all(found == list(range(20)) for found in await asyncio.gather(*followers))


async def test_an_execution_that_does_not_exist_has_no_streams() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with sandbox(app):
        with pytest.raises(ExecutionNotFoundError):
            await anext(aiter(flow.get_execution("nowhere").stream("s")))


async def test_a_stream_ends_when_the_app_is_closed() -> None:
    app = App(database="sqlite://")

    @app.workflow
    async def flow(step: Step) -> None:
        await step.sleep(HOUR)

    async with app.running():
        execution = await flow.trigger()
        follower = asyncio.ensure_future(anext(aiter(execution.stream("s"))))
        await asyncio.sleep(0.02)
    with pytest.raises(Exception, match="it is closed"):
        await follower


@pytest.mark.parametrize("follow", [True, False])
async def test_another_app_on_the_same_file_follows(tmp_path: Path, follow: bool) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    app, other, go = App(database=url), App(database=url), asyncio.Event()

    async def body() -> None:
        await current_step().emit("s", "first")
        await go.wait()
        await current_step().emit("s", "second")

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("body", body)

    async with app.running(), other.connected():
        execution = await flow.trigger()
        follower = aiter(other.get_execution(execution.id).stream("s"))
        assert (await anext(follower)).value == "first"
        go.set()
        assert (await anext(follower)).value == "second"
        await execution.result()
        there = other.get_execution(execution.id).stream("s", follow=follow)
        assert [item.value async for item in there] == ["first", "second"]


@pytest.mark.guarantee("G9")
async def test_a_follower_who_hears_nothing_looks_for_himself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.store.sqlite.writer._POLL_US", 3_600_000_000)
    monkeypatch.setattr("stepwell.streams.POLL_SECONDS", 0.02)
    url = f"sqlite:///{tmp_path / 'test.db'}"
    app, other, go = App(database=url), App(database=url), asyncio.Event()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("wait", go.wait)
        await step.emit("s", "value")

    async with app.running(), other.connected():
        execution = await flow.trigger()
        follower = asyncio.ensure_future(anext(aiter(other.get_execution(execution.id).stream("s"))))
        await asyncio.sleep(0.05)
        go.set()
        assert await follower == StreamItem(1, "value", 1)


async def test_code_without_an_event_loop_follows() -> None:
    app, go = App(), asyncio.Event()

    async def body() -> None:
        for number in range(1_500):
            await current_step().emit("s", number)
        await go.wait()
        await current_step().emit("s", "end")

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("body", body)

    def follow(execution: Execution[None]) -> list[Any]:
        seen: list[Any] = []
        for item in execution.stream_sync("s"):
            seen.append(item.value)
            if item.offset == 1_500:
                app.portal.call("this", set_go)
        return seen

    async def set_go() -> None:
        go.set()

    def take_one(execution: Execution[None]) -> StreamItem:
        return next(execution.stream_sync("s", after=1_499))

    async with sandbox(app):
        execution = await flow.trigger()
        assert await asyncio.to_thread(follow, execution) == [*range(1_500), "end"]
        assert await asyncio.to_thread(take_one, execution) == StreamItem(1_500, 1_499, 1)
        with pytest.raises(ExecutionNotFoundError):
            await asyncio.to_thread(take_one, flow.get_execution("nowhere"))


# What is durable, and when


async def test_what_a_body_has_emitted_is_durable_when_its_step_is() -> None:
    app = App()
    seen: list[int] = []

    async def body() -> None:
        for number in range(3_000):
            await current_step().emit("s", number)

    async def count() -> None:
        execution = app.get_execution(current_step().execution_id)
        seen.append(len(await stored(execution)))

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("body", body)
        await step.run("count", count)

    async with sandbox(app):
        await (await flow.trigger()).result()
    assert seen == [3_000]


async def test_emit_waits_when_hundreds_of_values_are_under_way() -> None:
    app = App()
    behind: list[int] = []

    async def body() -> None:
        step = current_step()
        execution = app.get_execution(step.execution_id)
        for number in range(1, 4_001):
            await step.emit("s", "x" * 10)
            if number % 1_500 == 0:
                behind.append(number - len(await stored(execution)))

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("body", body)

    async with sandbox(app):
        await (await flow.trigger()).result()
    assert len(behind) == 2
    assert max(behind) <= 257


async def test_threads_wait_too() -> None:
    app = App()
    behind: list[int] = []

    def body() -> None:
        step = current_step(SyncStep)
        execution = app.get_execution(step.execution_id)
        for number in range(1, 2_001):
            step.emit("s", number)
            if number % 900 == 0:
                behind.append(number - sum(1 for _ in execution.stream_sync("s", follow=False)))

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("body", body)

    async with sandbox(app):
        await (await flow.trigger()).result()
    assert len(behind) == 2
    assert max(behind) <= 257


async def test_large_values_wait_sooner() -> None:
    app = App()
    behind: list[int] = []

    async def body() -> None:
        step = current_step()
        execution = app.get_execution(step.execution_id)
        for number in range(1, 11):
            await step.emit("s", "x" * 500_000)
            behind.append(number - len(await stored(execution)))

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("body", body)

    async with sandbox(app):
        await (await flow.trigger()).result()
    assert max(behind) <= 3


async def test_a_body_that_emits_is_shown_as_running() -> None:
    app, talker = App(), Talker("a STOP")

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("talk", talker)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await talker.reached.wait()
        await anext(aiter(execution.stream("s")))
        assert await statuses(execution) == {"talk": "running"}
        await t.crash()


async def test_what_was_emitted_stays_when_the_execution_is_cancelled() -> None:
    app, talker = App(), Talker("a b STOP")

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("talk", talker)

    async def follow(execution: Execution[None]) -> list[str]:
        return [item.value async for item in execution.stream("s")]

    async with sandbox(app):
        execution = await flow.trigger()
        follower = asyncio.create_task(follow(execution))
        await talker.reached.wait()
        await anext(aiter(execution.stream("s")))
        await execution.cancel()
        assert await follower == ["a", "b"]
        assert await values(execution) == ["a", "b"]


async def test_what_was_emitted_stays_when_the_execution_fails() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.emit("s", "working")
        raise ValueError("no")

    @flow.on_error
    async def clean(step: Step, error: BaseException) -> None:
        await step.emit("s", f"cleaning up after {error}")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        with pytest.raises(ExecutionFailedError):
            await execution.result()
        await t.settle()
        assert await values(execution) == ["working", "cleaning up after no"]


# Replay


@pytest.mark.guarantee("G3")
async def test_replayed_workflow_code_emits_nothing_twice(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        ledger.append("begin")
        for number in range(3):
            await step.emit("s", "same")
            await step.emit("s", number)
            await step.emit("other", number)
            await step.sleep(f"nap-{number}", HOUR)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        await t.crash()
        await t.advance(HOUR)
        await t.crash()
        await t.advance(HOUR)
        await execution.result()
        assert await stored(execution) == [("same", 1), (0, 1), ("same", 1), (1, 1), ("same", 1), (2, 1)]
        assert await values(execution, "other") == [0, 1, 2]
    assert ledger.count("begin") > 3


async def test_branches_of_a_replay_may_emit_in_another_order() -> None:
    app, gates = App(), {"a": asyncio.Event(), "b": asyncio.Event()}

    async def wait(name: str) -> str:
        await gates[name].wait()
        return name

    @app.workflow
    async def flow(step: Step) -> None:
        async def branch(name: str) -> None:
            await step.run(name, wait, name)
            await step.emit("s", name)

        await asyncio.gather(branch("a"), branch("b"))
        await step.sleep("nap", HOUR)
        await step.emit("s", "end")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        follower = aiter(execution.stream("s"))
        gates["b"].set()
        assert (await anext(follower)).value == "b"
        gates["a"].set()
        await t.settle()
        await t.advance(HOUR)
        await execution.result()
        assert await stored(execution) == [("b", 1), ("a", 1), ("end", 1)]


@pytest.mark.guarantee("G3")
async def test_a_recorded_body_emits_nothing_again() -> None:
    app, talker = App(), Talker("a b")

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("talk", talker)
        await step.sleep("nap", HOUR)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        await t.crash()
        await t.advance(HOUR)
        await execution.result()
        assert await values(execution) == ["a", "b"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a b STOP", "a b c"], [("a", 1), ("b", 1), ("c", 1)]),
        (["a b STOP", "a b"], [("a", 1), ("b", 1)]),
        (["a b STOP", "a"], [("a", 1), ("b", 1)]),
        (["a b STOP", "x b"], [("a", 1), ("b", 1), ("x", 2), ("b", 2)]),
        (["a b STOP", "a x y"], [("a", 1), ("b", 1), ("a", 2), ("x", 2), ("y", 2)]),
        (
            ["a b STOP", "a x STOP", "a x y"],
            [("a", 1), ("b", 1), ("a", 2), ("x", 2), ("y", 2)],
        ),
        (
            ["a b STOP", "a x STOP", "a b"],
            [("a", 1), ("b", 1), ("a", 2), ("x", 2), ("a", 3), ("b", 3)],
        ),
        (["STOP", "a"], [("a", 1)]),
    ],
    ids=["more", "equal", "less", "other from the first", "other in the middle", "twice", "back", "nothing before"],
)
async def test_a_body_that_runs_again_after_a_crash(lines: list[str], expected: list[tuple[str, int]]) -> None:
    app, talker = App(), Talker(*lines)

    @app.workflow
    async def flow(step: Step) -> int:
        return await step.run("talk", talker)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        for _ in lines[1:]:
            await talker.reached.wait()
            talker.reached.clear()
            await t.worker.journal.flush()
            await t.crash()
        assert await execution.result() == len(lines)
        assert await stored(execution) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a b FAIL", "a b c"], [("a", 1), ("b", 1), ("c", 1)]),
        (["a b FAIL", "a c"], [("a", 1), ("b", 1), ("a", 2), ("c", 2)]),
        (["FAIL", "a FAIL", "a b FAIL", "c"], [("a", 1), ("b", 1), ("c", 2)]),
    ],
    ids=["equal", "other", "several"],
)
async def test_the_next_attempt_of_a_body(lines: list[str], expected: list[tuple[str, int]]) -> None:
    app, talker = App(), Talker(*lines)

    @app.workflow
    async def flow(step: Step) -> int:
        return await step.run("talk", talker, retries=5, retry_delay=0)

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == len(lines)
        assert await stored(execution) == expected


async def test_a_step_inside_is_cancelled_with_the_attempt_and_goes_on_in_the_next() -> None:
    app, inner = App(), Talker("a b STOP", "a c")
    attempts: list[int] = []

    async def outer() -> None:
        attempts.append(current_step().attempt)
        talking = asyncio.create_task(current_step().run("inner", inner))
        if len(attempts) == 1:
            await inner.reached.wait()
            talking.cancel()
            await asyncio.wait([talking])
            raise ValueError("no")
        await talking

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("outer", outer, retries=1, retry_delay=0)

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        assert attempts == [1, 2]
        assert await stored(execution) == [("a", 1), ("b", 1), ("a", 2), ("c", 2)]


async def test_a_body_that_begins_again_for_its_other_caller() -> None:
    """What its first go emitted is still on its way to the disk then."""
    app, reached = App(), asyncio.Event()
    begun: list[int] = []

    async def body() -> None:
        begun.append(1)
        await current_step().emit("s", "a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await current_step().emit("s", "b" if len(begun) == 1 else "c")
        if len(begun) == 1:
            reached.set()
            await asyncio.Event().wait()

    @app.workflow
    async def flow(step: Step) -> None:
        async def join() -> None:
            await step.run("body", body)

        async def cut(first: asyncio.Task[Any] | None) -> None:
            await reached.wait()
            assert first is not None
            first.cancel()

        joining = asyncio.create_task(join())
        cutting = asyncio.create_task(cut(asyncio.current_task()))
        try:
            await step.run("body", body)
        except asyncio.CancelledError:
            await joining
            await cutting

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        assert begun == [1, 1]
        assert await stored(execution) == [("a", 1), ("b", 1), ("a", 2), ("c", 2)]


@pytest.mark.parametrize("last", ["same", "other"])
async def test_a_long_take_is_compared_and_retold_page_by_page(last: str) -> None:
    app, reached = App(), asyncio.Event()
    begun: list[int] = []

    async def body() -> None:
        begun.append(1)
        for number in range(2_500):
            await current_step().emit("s", number)
        if len(begun) == 1:
            await current_step().emit("s", "same")
            reached.set()
            await asyncio.Event().wait()
        await current_step().emit("s", last)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("body", body)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await reached.wait()
        await anext(aiter(execution.stream("s", after=2_500)))
        await t.crash()
        await execution.result()
        first = [(number, 1) for number in range(2_500)] + [("same", 1)]
        again = [(number, 2) for number in range(2_500)] + [("other", 2)]
        assert await stored(execution) == (first if last == "same" else first + again)


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("turns", range(0, 60, 3))
async def test_a_crash_at_any_moment_neither_loses_nor_repeats_a_value(turns: int) -> None:
    app = App()

    async def body(name: str) -> None:
        for number in range(5):
            await current_step().emit("s", f"{name}{number}")
            await asyncio.sleep(0)

    @app.workflow
    async def flow(step: Step) -> None:
        for name in "ab":
            await step.emit("s", f"begin {name}")
            await step.run(name, body, name)
        await step.emit("s", "end")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        for _ in range(turns):
            await asyncio.sleep(0.0002)
        await t.crash()
        await execution.result()
        said = [word for name in "ab" for word in (f"begin {name}", *(f"{name}{number}" for number in range(5)))]
        assert await stored(execution) == [(word, 1) for word in [*said, "end"]]


async def test_emitting_is_no_progress_for_a_body_that_kills_its_process() -> None:
    app, talker = App(), Talker("a STOP", "b STOP", "c STOP", "d STOP", "e STOP")

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("talk", talker)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        for count in range(5):
            await talker.reached.wait()
            talker.reached.clear()
            await anext(aiter(execution.stream("s", after=count)))
            await t.crash()
        with pytest.raises(ExecutionFailedError) as caught:
            await execution.result()
        assert isinstance(caught.value.__cause__, CrashLoopError)
        assert await stored(execution) == [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)]


# Parallel and plain code


async def test_parallel_bodies_share_a_stream_and_each_keeps_its_order() -> None:
    app = App()

    async def body(name: str) -> None:
        for number in range(50):
            await current_step().emit("s", [name, number])
            if number % 7 == 0:
                await asyncio.sleep(0)

    @app.workflow
    async def flow(step: Step) -> None:
        await asyncio.gather(*(step.run(name, body, name) for name in "abc"))

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        found = await values(execution)
        assert len(found) == 150
        for name in "abc":
            assert [number for who, number in found if who == name] == list(range(50))


async def test_plain_workflows_and_bodies_emit_too() -> None:
    app, reached = App(), threading.Event()
    begun: list[str] = []

    def body(name: str) -> str:
        begun.append(name)
        for number in range(3):
            current_step(SyncStep).emit("s", [name, number])
        return name

    @app.workflow
    def flow(step: SyncStep) -> str:
        step.emit("s", "begin")
        name = step.run("here", body, "here") + step.run("pool", body, "pool", executor="thread")
        reached.set()
        step.sleep("nap", HOUR)
        step.emit("s", "end")
        return name

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await asyncio.to_thread(reached.wait)
        await t.settle()
        await t.crash()
        await t.advance(HOUR)
        assert await execution.result() == "herepool"
        bodies = [[name, number] for name in ("here", "pool") for number in range(3)]
        assert await values(execution) == ["begin", *bodies, "end"]
    assert begun == ["here", "pool"]


@pytest.mark.parametrize("executor", [None, "thread"])
async def test_what_a_thread_emits_is_in_order_and_durable_with_its_step(executor: Any) -> None:
    app = App()
    seen: list[Any] = []

    def body() -> None:
        step = current_step(SyncStep)
        for number in range(3_000):
            step.emit("s", "x" * 10_000 if number % 500 == 499 else number)

    async def look() -> None:
        seen.extend(await values(app.get_execution(current_step().execution_id)))

    @app.workflow
    def flow(step: SyncStep) -> None:
        step.run("body", body, executor=executor)
        step.run("look", look)

    async with sandbox(app):
        await (await flow.trigger()).result()
    assert seen == ["x" * 10_000 if number % 500 == 499 else number for number in range(3_000)]


# What is refused


async def test_values_come_back_as_what_they_were() -> None:
    app = App()
    given: list[Any] = [None, True, 5, 1.5, "text", [1, [2]], {"a": {"b": 1}}, (1, 2), {3}, b"raw", Decimal("1.10")]
    given.append(datetime(2030, 1, 1, tzinfo=UTC))

    @app.workflow
    async def flow(step: Step) -> None:
        for value in given:
            await step.emit("s", value)

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        found = await values(execution)
    assert found == given
    assert [type(value) for value in found] == [type(value) for value in given]


class Basket: ...


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (Basket(), "A value for stream 's': A Basket cannot be restored later because its class is not a dataclass"),
        (StreamItem(1, 2, 3), "a stream has no annotation. Emit plain values"),
        ("x" * 2_000, "A value for stream 's' of execution .* takes 2,002 bytes as JSON; at most 1,024 are allowed"),
        ("\ud800", "A value for stream 's'"),
    ],
    ids=["class", "tuple class", "size", "surrogate"],
)
async def test_a_value_that_cannot_be_stored_is_refused_at_once(value: object, problem: str) -> None:
    app = App(payload_limit="1 KiB")
    begun: list[int] = []

    async def body() -> None:
        begun.append(1)
        await current_step().emit("s", "good")
        await current_step().emit("s", value)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("body", body)

    async with sandbox(app):
        execution = await flow.trigger()
        with pytest.raises(ExecutionFailedError) as caught:
            await execution.result()
        assert isinstance(caught.value.__cause__, SerializationError)
        assert begun == [1]
        assert await values(execution) == ["good"]
    with pytest.raises(SerializationError, match=problem):
        raise caught.value.__cause__


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "\ud800", 5, None])
async def test_a_name_that_no_stream_can_have_is_refused(name: Any) -> None:
    app = App()
    errors: list[str] = []

    @app.workflow
    async def flow(step: Step) -> None:
        try:
            await step.emit(name, 1)
        except InvalidInputError as error:
            errors.append(str(error))

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        with pytest.raises(InvalidInputError, match="A stream name must"):
            execution.stream(name)
    assert len(errors) == 1
    assert errors[0].startswith("A stream name must")


@pytest.mark.parametrize("after", [-1, True, 1.5, "1", 1 << 63])
async def test_an_offset_that_cannot_be_is_refused(after: Any) -> None:
    app = App()
    async with sandbox(app):
        with pytest.raises(InvalidInputError, match="after must be the offset of a value"):
            app.get_execution("e").stream("s", after)


async def test_names_may_have_any_other_characters() -> None:
    app, names = App(), ["a/b", "#1", "50%", "ü", "x" * 200]

    @app.workflow
    async def flow(step: Step) -> None:
        for name in names:
            await step.emit(name, name)

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        assert [await values(execution, name) for name in names] == [[name] for name in names]


async def test_emit_needs_a_running_step() -> None:
    app = App()
    kept: list[Step] = []

    async def body() -> None:
        step = current_step()

        async def later() -> None:
            await asyncio.sleep(0.01)
            with pytest.raises(WorkflowCodeError, match=r"step\.emit was called in the scope of step 'body'"):
                await step.emit("s", 1)
            kept.append(step)

        tasks.append(asyncio.create_task(later()))

    tasks: list[asyncio.Task[None]] = []

    @app.workflow
    async def flow(step: Step) -> None:
        kept.append(step)
        await step.run("body", body)
        await step.run("wait", asyncio.sleep, 0.05)

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        await asyncio.gather(*tasks)
        assert len(kept) == 2
        with pytest.raises(NoStepContextError):
            await kept[0].emit("s", 1)
        assert await stored(execution) == []


async def test_workflow_code_cannot_follow_a_stream() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        with pytest.raises(WorkflowCodeError, match=r"Execution\.stream\(\)"):
            app.get_execution(step.execution_id).stream("s")

    async with sandbox(app):
        await (await flow.trigger()).result()
