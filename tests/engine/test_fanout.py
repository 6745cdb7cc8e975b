"""`map`, `for_each` and `batch`: a body for each item, a few at a time, each recorded by itself."""

from __future__ import annotations

import asyncio
import gc
import math
import sqlite3
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from stepwell import (
    App,
    Execution,
    ExecutionFailedError,
    NonRetryableError,
    RetryPolicy,
    Step,
    StepFailedError,
    StepInfo,
    StepTimeoutError,
    SyncStep,
    current_step,
)
from stepwell.errors import InvalidInputError, SerializationError
from stepwell.testing import sandbox
from tests.engine.conftest import Ledger, in_memory, statuses, until

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


class Gate:
    """Bodies that begin when they may and end when they may; it knows which began, ended, and were cancelled."""

    def __init__(self, *open: int) -> None:
        self.began: list[int] = []
        self.ended: list[int] = []
        self.cancelled: list[int] = []
        self.at_once = 0
        self.most_at_once = 0
        self._doors = {index: asyncio.Event() for index in open}
        self._all_open = False

    def open(self, *items: int) -> None:
        """Let these end; without any, all."""
        self._all_open = self._all_open or not items
        for item in items or list(self._doors):
            self._doors.setdefault(item, asyncio.Event()).set()

    async def body(self, item: int) -> int:
        self.began.append(item)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if not self._all_open:
                await self._doors.setdefault(item, asyncio.Event()).wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(item)
            raise
        finally:
            self.at_once -= 1
        self.ended.append(item)
        return item * 10


async def by_path(execution: Execution[Any]) -> dict[str, StepInfo]:
    return {step.path: step for step in await execution.steps()}


async def ten_times(item: int) -> int:
    return item * 10


# ------------------------------------------------------------------------------------------------- what they give


@pytest.mark.parity("P5.10")
async def test_results_come_in_the_order_of_the_items_and_each_item_is_a_step() -> None:
    app = App()

    async def slow_first(item: int) -> int:
        await asyncio.sleep(0.02 if item == 1 else 0)
        return item * 10

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.map("tens", [1, 2, 3], slow_first)

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == [10, 20, 30]
        steps = await by_path(execution)

    assert {path: (step.kind, step.status, step.input, step.output) for path, step in steps.items()} == {
        "tens": ("map", "completed", {"items": 3, "concurrency": 10}, {"completed": 3, "failed": 0}),
        "tens/0": ("run", "completed", [1], 10),
        "tens/1": ("run", "completed", [2], 20),
        "tens/2": ("run", "completed", [3], 30),
    }


@pytest.mark.parity("P5.10")
@pytest.mark.parametrize("concurrency", [1, 3, 50])
async def test_no_more_items_than_allowed_are_in_flight(concurrency: int) -> None:
    app, gate = App(), Gate()

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.map("tens", range(12), gate.body, concurrency=concurrency)

    async with sandbox(app):
        execution = await flow.trigger()
        await until(lambda: gate.at_once == min(concurrency, 12))
        await asyncio.sleep(0.02)
        gate.open()
        assert await execution.result() == [item * 10 for item in range(12)]
    assert gate.most_at_once == min(concurrency, 12)


@pytest.mark.parity("P5.10")
async def test_ten_items_are_in_flight_by_default_and_the_next_begins_when_one_is_durable() -> None:
    app, gate = App(), Gate()

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.map("tens", range(12), gate.body)

    async with sandbox(app):
        execution = await flow.trigger()
        await until(lambda: len(gate.began) == 10)
        gate.open(4)
        await until(lambda: len(gate.began) == 11)
        assert (await statuses(execution))["tens/4"] == "completed"
        assert gate.began == list(range(11))
        gate.open()
        await execution.result()


async def test_no_items_give_an_empty_list_and_a_completed_step() -> None:
    app, ran = App(), Ledger()

    @app.workflow
    async def flow(step: Step) -> list[object]:
        nothing = await step.map("map", [], ran.note)
        slices = await step.batch("batch", iter(()), len)
        await step.for_each("each", (), ran.note)
        await step.sleep("nap", HOUR)
        return [nothing, slices]

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        assert await execution.result() == [[], []]
        found = await statuses(execution)
    assert found == dict.fromkeys(["map", "batch", "each", "nap"], "completed")
    assert ran == []


@pytest.mark.parity("P5.11")
async def test_for_each_keeps_no_results_and_takes_those_that_cannot_be_stored() -> None:
    app, ran = App(), Ledger()

    async def body(item: int) -> object:
        ran.append(str(item))
        return object()

    @app.workflow
    async def flow(step: Step) -> str:
        first: object = cast("object", await step.for_each("each", range(3), body))
        await step.sleep("nap", HOUR)
        return repr(first)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        assert await execution.result() == "None"
        steps = await by_path(execution)
    assert ran == ["0", "1", "2"]
    assert [(steps[f"each/{n}"].status, steps[f"each/{n}"].output) for n in range(3)] == [("completed", None)] * 3
    assert steps["each"].kind == "for_each"


@pytest.mark.parity("P5.11")
async def test_batch_runs_one_slice_after_the_other() -> None:
    app, ran = App(), Ledger()

    async def total(part: list[int]) -> int:
        ran.append(f"begin {current_step().index}")
        await asyncio.sleep(0)
        ran.append(f"end {current_step().index}")
        return sum(part)

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.batch("sums", range(5), total, batch_size=2)

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == [1, 5, 4]
        steps = await by_path(execution)
    assert ran == ["begin 0", "end 0", "begin 1", "end 1", "begin 2", "end 2"]
    assert steps["sums"].input == {"items": 5, "batch_size": 2}
    assert [steps[f"sums/{n}"].input for n in range(3)] == [[[0, 1]], [[2, 3]], [[4]]]


@pytest.mark.parity("P5.11")
async def test_a_slice_has_a_hundred_items_by_default() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.batch("sizes", range(250), len)

    async with sandbox(app):
        assert await (await flow.trigger()).result() == [100, 100, 50]


@pytest.mark.parity("P5.13")
async def test_the_index_is_known_in_the_body_and_in_the_steps_inside() -> None:
    app = App()

    async def index(_: object = None) -> int | None:
        return current_step().index

    async def body(item: str) -> list[int | None]:
        return [current_step().index, await current_step().run("inner", index)]

    @app.workflow
    async def flow(step: Step) -> list[object]:
        return [step.index, await step.run("run", index), *await step.map("map", ["a", "b"], body)]

    async with sandbox(app):
        assert await (await flow.trigger()).result() == [None, None, [0, 0], [1, 1]]


async def test_plain_functions_run_side_by_side_in_threads() -> None:
    app, both = App(), threading.Barrier(3)

    def meet(item: int) -> str:
        both.wait(5)
        return threading.current_thread().name

    @app.workflow
    async def flow(step: Step) -> list[str]:
        return await step.map("meet", range(3), meet)

    async with sandbox(app):
        names = await (await flow.trigger()).result()
    assert len(set(names)) == 3
    assert threading.current_thread().name not in names


async def test_the_blocking_twins_give_the_same_and_run_items_in_the_pool() -> None:
    app, both = App(), threading.Barrier(2)

    def body(item: int) -> int:
        both.wait(5)
        here = current_step(SyncStep)
        here.sleep(HOUR)
        return here.run("inner", lambda: item * 10) + cast("int", here.index)

    async def is_async(item: int) -> int:
        return item

    @app.workflow
    def flow(step: SyncStep) -> list[object]:
        mapped = step.map("map", [1, 2], body)
        nothing: object = cast("object", step.for_each("each", [1, 2], is_async))
        return [mapped, nothing, step.batch("batch", [1, 2, 3], len, batch_size=2)]

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        assert (await execution.status(), in_memory(t)) == ("sleeping", set())
        await t.advance(HOUR)
        assert await execution.result(5) == [[10, 21], None, [2, 1]]


async def test_an_executor_runs_the_items() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> list[str]:
        return await step.map("names", range(2), lambda _: threading.current_thread().name, executor=pool)

    with ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
        async with sandbox(app):
            assert await (await flow.trigger()).result() == ["mine_0", "mine_0"]


async def test_processes_run_the_items() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.map("factorials", range(4), math.factorial, executor="process", concurrency=2)

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == [1, 1, 2, 6]


async def test_options_hold_for_each_item() -> None:
    app, tries = App(), Ledger()

    async def body(item: str):
        tries.append(f"{item}{current_step().attempt}")
        if item == "slow":
            await asyncio.sleep(3600)
        if item == "flaky" and current_step().attempt < 2:
            raise ValueError(item)
        return (1, 2)

    @app.workflow
    async def flow(step: Step) -> str:
        given: object = await step.map(
            "map",
            ["flaky", "slow"],
            body,
            returns=tuple[int, int],
            retries=RetryPolicy(retries=1, delay=10, backoff="constant", jitter=0),
            timeout=60,
            failures="collect",
        )
        return repr(given)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("5 minutes")
        assert (await execution.result()).startswith("[(1, 2), StepTimeoutError(")
        found = await by_path(execution)
    assert sorted(tries) == ["flaky1", "flaky2", "slow1", "slow2"]
    assert (found["map/0"].attempt, found["map/1"].attempt) == (2, 2)


async def test_results_may_be_larger_together_than_one_payload() -> None:
    app = App(payload_limit=10_000)

    async def body(item: int) -> str:
        return "x" * 5_000

    @app.workflow
    async def flow(step: Step) -> int:
        first = await step.map("map", range(10), body)
        await step.sleep("nap", HOUR)
        return sum(map(len, first))

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        assert await execution.result() == 50_000
        assert len(str((await by_path(execution))["map"].output)) < 100


async def test_a_stub_stands_in_for_the_items() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.map("map", [1, 2], ten_times)

    async with sandbox(app) as t:
        t.stub("map", float)
        assert await (await flow.trigger()).result() == [1, 2]


# ------------------------------------------------------------------------------------------------- what is refused


async def agen() -> AsyncGenerator[int]:
    yield 1


REFUSED: list[tuple[Callable[[Any], object], type[Exception], str]] = [
    (lambda step: step.map("x", "text", ten_times), InvalidInputError, r"items of step\.map .* 'text'"),
    (lambda step: step.map("x", b"text", ten_times), InvalidInputError, r"b'text'"),
    (lambda step: step.map("x", {1: 2}, ten_times), InvalidInputError, r"mapping\.items\(\)"),
    (lambda step: step.map("x", {1, 2}, ten_times), InvalidInputError, r"sorted"),
    (lambda step: step.map("x", agen(), ten_times), InvalidInputError, r"step of its own"),
    (lambda step: step.map("x", 5, ten_times), InvalidInputError, r"got 5"),
    (lambda step: step.map("x", [1], ten_times, concurrency=0), InvalidInputError, r"concurrency .* got 0"),
    (lambda step: step.map("x", [1], ten_times, concurrency=True), InvalidInputError, r"concurrency .* got True"),
    (lambda step: step.map("x", [1], ten_times, concurrency=1.5), InvalidInputError, r"concurrency .* got 1\.5"),
    (lambda step: step.batch("x", [1], len, batch_size=-1), InvalidInputError, r"batch_size .* got -1"),
    (lambda step: step.map("x", [1], ten_times, failures="drop"), InvalidInputError, r"failures .* got 'drop'"),
    (lambda step: step.map("x", [1], ten_times, retries=-1), InvalidInputError, r"retries .* got -1"),
    (lambda step: step.map("", [1], ten_times), InvalidInputError, r"step name"),
    (lambda step: step.map("x", [1], 5), TypeError, r"step\.map needs a function .* got 5"),
    (lambda step: step.map("x", [1], ten_times, input=1), TypeError, r"unknown options: input .*retries"),
    (lambda step: step.batch("x", [1], len, concurrency=1), TypeError, r"unknown options: concurrency"),
]


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize("number", range(len(REFUSED)))
async def test_bad_input_is_refused_by_name_and_nothing_is_written(number: int) -> None:
    app = App()
    call, error, message = REFUSED[number]

    @app.workflow
    async def flow(step: Step) -> None:
        with pytest.raises(error, match=message):
            await cast("Any", call(step))

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        assert await execution.steps() == []


@pytest.mark.parametrize(
    "items", [[1, 2], (1, 2), range(1, 3), iter([1, 2]), {"a": 1, "b": 2}.values(), (n for n in (1, 2))]
)
async def test_any_iterable_with_an_order_is_taken(items: Iterable[int]) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.map("map", items, ten_times)

    async with sandbox(app):
        assert await (await flow.trigger()).result() == [10, 20]


# ------------------------------------------------------------------------------------------------- replay


@pytest.mark.guarantee("G3")
@pytest.mark.parity("P5.10")
async def test_after_a_crash_only_the_missing_items_run() -> None:
    app, gate = App(), Gate()

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.map("map", range(6), gate.body, concurrency=3)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        gate.open(0, 2)
        await until(lambda: len(gate.began) == 5)
        await until(lambda: gate.ended == [0, 2])
        assert (await statuses(execution))["map"] == "running"
        await t.crash()
        gate.open()
        assert await execution.result() == [0, 10, 20, 30, 40, 50]
        assert set((await statuses(execution)).values()) == {"completed"}
    assert gate.began[:5] == [0, 1, 2, 3, 4]
    assert sorted(gate.began[5:]) == [1, 3, 4, 5]
    assert sorted(gate.ended) == [0, 1, 2, 3, 4, 5]


@pytest.mark.guarantee("G2")
async def test_a_finished_map_gives_the_same_values_of_the_same_types_on_every_replay() -> None:
    app, ran, seen = App(), Ledger(), Ledger()

    async def body(item: int) -> tuple[int, str]:
        ran.append(str(item))
        return item, "x"

    @app.workflow
    async def flow(step: Step) -> None:
        seen.append(repr(await step.map("map", range(3), body)))
        await step.sleep("nap", HOUR)
        seen.append(repr(await step.map("map", range(3), body)))

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        await t.crash()
        await t.advance(HOUR)
        await execution.result()
    assert ran == ["0", "1", "2"]
    assert set(seen) == {"[(0, 'x'), (1, 'x'), (2, 'x')]"}
    assert len(seen) >= 3


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("point", range(1, 28))
async def test_no_recorded_item_runs_twice_whenever_the_worker_dies(point: int) -> None:
    """Every run of a body gives another value, so what is recorded must be what the last one gave."""
    app, last, moments, dies = App(), dict[str, int](), 0, asyncio.Event()
    fresh = iter(range(1_000_000))

    def moment() -> int:
        nonlocal moments
        moments += 1
        if moments == point:
            dies.set()
        last[current_step().path] = next(fresh)
        return last[current_step().path]

    async def once() -> int:
        return moment()

    async def body(item: object) -> int:
        moment()
        await current_step().run("inner", once)
        await asyncio.sleep(0)
        return moment()

    @app.workflow
    async def flow(step: Step) -> list[list[int]]:
        mapped = step.map("map", range(5), body, concurrency=2)
        return [*await asyncio.gather(mapped, step.batch("batch", range(8), body, batch_size=2))]

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await dies.wait()
        for _ in range(point % 4):
            await asyncio.sleep(0)
        await t.crash()
        mapped, batched = await execution.result()
        steps = await by_path(execution)
    outputs = {path: step.output for path, step in steps.items() if step.kind == "run"}
    assert outputs == last
    assert mapped == [last[f"map/{index}"] for index in range(5)]
    assert batched == [last[f"batch/{index}"] for index in range(4)]


@pytest.mark.guarantee("G6")
async def test_the_attempts_of_an_item_survive_a_crash() -> None:
    app, tries = App(), Ledger()

    async def body(item: int) -> int:
        tries.append(f"{item}/{current_step().attempt}")
        if item == 1 and current_step().attempt < 3:
            raise ValueError(item)
        return item

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.map("map", range(3), body, retry_delay="1 hour", backoff="constant")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        assert in_memory(t) == set()
        await t.crash()
        await t.advance("3 hours")
        assert await execution.result() == [0, 1, 2]
    assert tries == ["0/1", "1/1", "2/1", "1/2", "1/3"]


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("now", [2, 4])
async def test_another_number_of_items_stops_the_replay_before_any_body_runs(finished: bool, now: int) -> None:
    app, gate, items = App(), Gate(), [0, 1, 2]

    @app.workflow
    async def flow(step: Step) -> None:
        await step.map("map", items, gate.body)
        await step.sleep("nap", HOUR)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        gate.open(0, *([1, 2] if finished else []))
        await until(lambda: len(gate.ended) == (3 if finished else 1))
        await until(lambda: not finished or not in_memory(t))
        items[:] = range(now)
        gate.began.clear()
        await t.crash()
        if finished:
            await t.advance(HOUR)
        await t.settle()
        info = await execution.info()
    assert info.status == "queued"
    assert f"was recorded with 3 items and now has {now}" in (info.waiting_for or "")
    assert gate.began == []


async def test_another_size_of_the_slices_stops_the_replay() -> None:
    app, size = App(), 3

    @app.workflow
    async def flow(step: Step) -> None:
        await step.batch("sums", range(5), sum, batch_size=size)
        await step.sleep("nap", HOUR)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        size = 4
        await t.advance(HOUR)
        assert "batch_size=3 and now has batch_size=4" in ((await execution.info()).waiting_for or "")


async def test_another_verb_of_that_name_stops_the_replay() -> None:
    app, again = App(), False

    @app.workflow
    async def flow(step: Step) -> None:
        await (step.map if again else step.for_each)("all", range(5), ten_times)
        await step.sleep("nap", HOUR)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        again = True
        await t.advance(HOUR)
        assert "recorded as a for_each and is now a map" in ((await execution.info()).waiting_for or "")


async def test_a_finished_map_without_the_record_of_an_item_stops_the_replay(tmp_path: Path) -> None:
    app, file = App(), tmp_path / "test.db"

    @app.workflow
    async def flow(step: Step) -> None:
        await step.map("map", range(3), ten_times)
        await step.sleep("nap", HOUR)

    async with sandbox(app, database=f"sqlite:///{file}") as t:
        execution = await flow.trigger()
        await t.settle()
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("DELETE FROM steps WHERE path = 'map/1'")
        await t.advance(HOUR)
        assert "completed without its item 1" in ((await execution.info()).waiting_for or "")


async def test_the_function_may_be_renamed_and_the_concurrency_changed() -> None:
    app, gate, ran = App(), Gate(), Ledger()

    async def renamed(item: int) -> int:
        ran.append(str(item))
        return item * 10

    fn, concurrency = gate.body, 3

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.map("map", range(6), fn, concurrency=concurrency)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        gate.open(1)
        await until(lambda: len(gate.began) == 4)
        fn, concurrency = renamed, 1
        await t.crash()
        assert await execution.result() == [0, 10, 20, 30, 40, 50]
    assert ran == ["0", "2", "3", "4", "5"]


# ------------------------------------------------------------------------------------------------- failures


@pytest.mark.parity("P5.10")
@pytest.mark.guarantee("G3")
async def test_a_failed_item_lets_no_other_begin_and_those_in_flight_end() -> None:
    app, gate, replays = App(), Gate(), Ledger()

    async def body(item: int) -> int:
        value = await gate.body(item)
        if item in (1, 2):
            raise NonRetryableError(f"item {item}")
        return value

    @app.workflow
    async def flow(step: Step) -> str:
        try:
            await step.map("map", range(9), body, concurrency=3)
        except NonRetryableError as error:
            replays.append(str(error))
        await step.sleep("nap", HOUR)
        return replays[-1]

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await until(lambda: len(gate.began) == 3)
        gate.open(2)
        await until(lambda: gate.ended == [2])
        await asyncio.sleep(0.02)
        assert (await statuses(execution))["map"] == "running"
        gate.open(1)
        await until(lambda: gate.ended == [2, 1])
        gate.open()
        await t.settle()
        await t.crash()
        await t.advance(HOUR)
        assert await execution.result() == "item 2"
        found = await by_path(execution)
    assert (gate.began, gate.cancelled) == ([0, 1, 2], [])
    assert set(replays) == {"item 2"}
    assert len(replays) > 1
    assert {path: step.status for path, step in found.items()} == {
        "map": "failed",
        "map/0": "completed",
        "map/1": "failed",
        "map/2": "failed",
        "nap": "completed",
    }


async def test_after_a_crash_beside_a_failed_item_only_what_had_begun_goes_on() -> None:
    app, ran = App(), Ledger()

    async def body(item: int) -> int:
        ran.append(f"{item}")
        if item == 1:
            raise NonRetryableError("item 1")
        await current_step().sleep("nap", HOUR)
        return item

    @app.workflow(retries=0)
    async def flow(step: Step) -> None:
        await step.map("map", range(9), body, concurrency=2)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        await t.crash()
        await t.advance(HOUR)
        with pytest.raises(ExecutionFailedError, match="item 1"):
            await execution.result()
        assert (await statuses(execution))["map/0"] == "completed"
    assert set(ran) == {"0", "1"}
    assert ran.count("1") == 1


async def test_the_first_failure_in_time_is_raised_after_a_crash_too() -> None:
    app = App()

    async def body(item: int) -> int:
        await current_step().sleep("nap", [3 * HOUR, 2 * HOUR, HOUR][item])
        raise NonRetryableError(f"item {item}")

    @app.workflow(retries=0)
    async def flow(step: Step) -> None:
        await step.map("map", range(3), body)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("2 hours 1 minute")
        await t.crash()
        await t.advance("2 hours")
        with pytest.raises(ExecutionFailedError, match="item 2"):
            await execution.result()


class RefusedByBankError(Exception):
    pass


async def test_collected_failures_stand_in_their_places_live_and_on_replay() -> None:
    app, seen = App(errors=[RefusedByBankError]), Ledger()

    async def body(item: int) -> int:
        if item == 1:
            raise RefusedByBankError("one")
        if item == 2:
            raise KeyError("two")
        return item

    @app.workflow(retries=0)
    async def flow(step: Step) -> None:
        given = await step.map("map", range(4), body, failures="collect")
        seen.append(repr(given))
        assert [type(value) for value in given] == [int, RefusedByBankError, KeyError, int]
        slices = await step.batch("batch", range(4), lambda part: body(part[0]), batch_size=2, failures="collect")
        seen.append(repr(slices))
        nothing: object = cast("object", await step.for_each("each", range(4), body, failures="collect"))
        assert nothing is None
        await step.sleep("nap", HOUR)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        await t.advance(HOUR)
        await execution.result()
        found = await by_path(execution)
    assert seen == ["[0, RefusedByBankError('one'), KeyError('two'), 3]", "[0, KeyError('two')]"] * 2
    assert (found["map"].status, found["map"].output) == ("completed", {"completed": 2, "failed": 2})
    assert found["map/1"].status == found["each/2"].status == "failed"


async def test_a_body_that_raises_a_collected_failure_is_not_tried_again() -> None:
    app, ran = App(), Ledger()

    async def body(item: int) -> int:
        raise ValueError("of the item")

    async def outer() -> None:
        ran.append("outer")
        [error] = await current_step().map("map", [1], body, retries=0, failures="collect")
        raise cast("BaseException", error)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("outer", outer)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("10 minutes")
        with pytest.raises(ExecutionFailedError, match="of the item"):
            await execution.result()
    assert ran == ["outer"]


async def test_a_result_that_cannot_be_stored_fails_its_item() -> None:
    app = App()

    async def body(item: int) -> object:
        return object()

    @app.workflow
    async def flow(step: Step) -> str:
        try:
            await step.map("map", range(3), body)
        except SerializationError as error:
            return str(error)
        return "nothing"

    async with sandbox(app):
        assert "'map/0'" in await (await flow.trigger()).result()


async def test_a_body_that_cancels_its_own_task_fails_its_item() -> None:
    app = App()

    async def body(item: int) -> int:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        assert not task.cancelling()
        if item == 1:
            task.cancel()
            await asyncio.sleep(1)
        return item

    @app.workflow
    async def flow(step: Step) -> list[str]:
        given = await step.map("map", range(4), body, concurrency=1, failures="collect")
        await step.sleep("nap", HOUR)
        return [type(value).__name__ for value in given]

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        assert await execution.result() == ["int", StepFailedError.__name__, "int", "int"]


# ------------------------------------------------------------------------------------------------- waiting and leaving


@pytest.mark.parametrize("concurrency", [2, 10])
async def test_sleeping_items_park_the_execution_at_once_and_go_on(concurrency: int) -> None:
    app, ran = App(), Ledger()

    async def body(item: int) -> int:
        await current_step().run("before", ran.note, f"before {item}")
        await current_step().sleep(HOUR)
        await current_step().run("after", ran.note, f"after {item}")
        return item

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.map("map", range(4), body, concurrency=concurrency)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        async with asyncio.timeout(0.9):  # less than the grace of what only might wait
            await until(lambda: len(ran) >= min(concurrency, 4) and not in_memory(t))
        assert await execution.status() == "sleeping"
        await t.advance("5 hours")
        assert await execution.result() == [0, 1, 2, 3]
    assert sorted(ran) == sorted(f"{when} {item}" for when in ("before", "after") for item in range(4))


async def test_items_that_wait_for_events_and_children_park_and_go_on() -> None:
    app = App()

    @app.workflow
    async def child(step: Step, item: int) -> int:
        await step.sleep("nap", HOUR)
        return item

    async def body(item: int) -> int:
        step = current_step()
        answer = await step.listen("answer", event=f"answer-{item}", returns=int)
        return answer + await step.execute_workflow("child", child, item)

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.map("map", [1, 2], body)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        assert (await execution.status(), in_memory(t)) == ("listening", set())
        await execution.send_event("answer-2", 20)
        await execution.send_event("answer-1", 10)
        await t.advance("2 hours")
        assert await execution.result() == [11, 22]


async def test_a_map_beside_a_sleeping_branch_is_not_parked_away(short_grace: None) -> None:
    app, gate = App(), Gate()

    @app.workflow
    async def flow(step: Step) -> tuple[str, object]:
        return await step.race("race", nap=step.sleep("nap", HOUR), map=step.map("map", range(3), gate.body))

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await until(lambda: len(gate.began) == 3)
        await asyncio.sleep(0.1)
        assert in_memory(t) == {execution.id}
        gate.open()
        assert await execution.result() == ("map", [0, 10, 20])
    assert gate.began == [0, 1, 2]


async def test_within_ends_a_map_that_takes_too_long() -> None:
    app, gate = App(), Gate()

    @app.workflow
    async def flow(step: Step) -> str:
        try:
            await step.within("soon", HOUR, step.map("map", range(5), gate.body, concurrency=2))
        except StepTimeoutError:
            await step.sleep("nap", HOUR)
            return "too late"
        return "in time"

    async with sandbox(app) as t:
        execution = await flow.trigger()
        gate.open(0)
        await until(lambda: len(gate.began) == 3)
        await t.advance("3 hours")
        assert await execution.result() == "too late"
        found = await statuses(execution)
    assert gate.began == [0, 1, 2]
    assert sorted(gate.cancelled) == [1, 2]
    assert {path: status for path, status in found.items() if path.startswith("map")} == {
        "map": "cancelled",
        "map/0": "completed",
        "map/1": "cancelled",
        "map/2": "cancelled",
    }


@pytest.mark.guarantee("G8")
async def test_cancelling_the_execution_ends_what_is_in_flight_and_begins_nothing() -> None:
    app, gate = App(), Gate()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.map("map", range(5), gate.body, concurrency=2)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        gate.open(0)
        await until(lambda: len(gate.began) == 3)
        await execution.cancel()
        await t.settle()
        assert (await execution.status(), in_memory(t)) == ("cancelled", set())
        assert (await statuses(execution))["map"] == "cancelled"
    assert gate.began == [0, 1, 2]
    assert sorted(gate.cancelled) == [1, 2]


async def test_the_timeout_of_the_execution_ends_a_map() -> None:
    app, gate = App(), Gate()

    @app.workflow(timeout="1 minute")
    async def flow(step: Step) -> None:
        await step.map("map", range(5), gate.body, concurrency=2)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await until(lambda: len(gate.began) == 2)
        await t.advance("1 minute")
        with pytest.raises(ExecutionFailedError, match=r"60"):
            await execution.result()
    assert gate.began == [0, 1]


@pytest.mark.parametrize("nested", [False, True])
async def test_a_worker_that_leaves_ends_the_items_in_flight_and_begins_none(nested: bool, tmp_path: Path) -> None:
    app, gate = App(database=f"sqlite:///{tmp_path / 'test.db'}"), Gate()

    async def outer() -> list[int]:
        return await current_step().map("map", range(6), gate.body, concurrency=2)

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.run("outer", outer) if nested else await step.map("map", range(6), gate.body, concurrency=2)

    async with asyncio.timeout(4):
        async with app.running(drain_timeout=5):
            execution = await flow.trigger()
            await until(lambda: len(gate.began) == 2)
            asyncio.get_running_loop().call_later(0.05, gate.open, 0, 1)
    assert (gate.began, gate.ended, gate.cancelled) == ([0, 1], [0, 1], [])

    gate.open()
    async with app.running():
        assert await flow.get_execution(execution.id).result(5) == [0, 10, 20, 30, 40, 50]
    assert gate.began == [0, 1, 2, 3, 4, 5]


async def test_an_item_to_be_tried_again_waits_for_the_next_worker(tmp_path: Path) -> None:
    app, gate, tries = App(database=f"sqlite:///{tmp_path / 'test.db'}"), Gate(), Ledger()

    async def body(item: int) -> int:
        tries.append(f"{item}/{current_step().attempt}")
        await gate.body(item)
        if item == 0 and current_step().attempt == 1:
            raise ValueError(item)
        return item

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.map("map", range(2), body, retry_delay=0)

    async with asyncio.timeout(4):
        async with app.running(drain_timeout=5):
            execution = await flow.trigger()
            await until(lambda: len(gate.began) == 2)
            asyncio.get_running_loop().call_later(0.05, gate.open)
    assert tries == ["0/1", "1/1"]

    async with app.running():
        assert await flow.get_execution(execution.id).result(5) == [0, 1]
    assert tries == ["0/1", "1/1", "0/2"]


async def test_items_of_a_map_in_a_carried_thread_park_too(short_grace: None) -> None:
    app, began = App(), list[int]()

    def body(item: int) -> int:
        began.append(item)
        current_step(SyncStep).sleep("nap", HOUR)
        return item

    @app.workflow
    def flow(step: SyncStep) -> list[int]:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(step.carry(lambda: step.map("map", [1, 2], body))).result()

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await until(lambda: len(began) == 2 and not in_memory(t))
        assert await execution.status() == "sleeping"
        await t.advance(HOUR)
        assert await execution.result(5) == [1, 2]


# ------------------------------------------------------------------------------------------------- inside each other


async def test_maps_work_inside_bodies_and_inside_items() -> None:
    app, ran = App(), Ledger()

    async def leaf(item: str) -> str:
        await current_step().sleep("nap", HOUR)
        return await ran.note(item)

    async def row(number: int) -> list[str]:
        return await current_step().map("leaves", [f"{number}a", f"{number}b"], leaf)

    async def outer() -> list[list[str]]:
        return await current_step().map("rows", range(2), row)

    @app.workflow
    async def flow(step: Step) -> list[list[str]]:
        return await step.run("outer", outer)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        assert in_memory(t) == set()
        await t.advance(HOUR)
        assert await execution.result() == [["0a", "0b"], ["1a", "1b"]]
        assert (await statuses(execution))["outer/rows/1/leaves/0/nap"] == "completed"
    assert sorted(ran) == ["0a", "0b", "1a", "1b"]


@pytest.mark.guarantee("G3")
async def test_the_next_attempt_of_a_body_runs_only_what_its_map_had_left() -> None:
    app, gate, inner = App(), Gate(), Ledger()

    async def body(item: int) -> int:
        await current_step().run("inner", inner.note, str(item))
        return await gate.body(item)

    async def outer() -> list[int]:
        return await current_step().map("map", range(4), body, concurrency=2)

    @app.workflow
    async def flow(step: Step) -> list[int]:
        return await step.run("outer", outer, timeout="1 minute")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        gate.open(0)
        await until(lambda: len(gate.began) == 3)
        await t.advance("1 minute")
        assert sorted(gate.cancelled) == [1, 2]
        gate.open()
        await t.advance("1 minute")
        assert await execution.result() == [0, 10, 20, 30]
        found = await by_path(execution)
    assert gate.began == [0, 1, 2, 1, 2, 3]
    assert sorted(inner) == ["0", "1", "2", "3"]
    assert found["outer"].attempt == 2
    assert {step.status for step in found.values()} == {"completed"}


@pytest.mark.guarantee("G3")
async def test_what_ended_inside_a_cancelled_step_does_not_run_again_in_the_next_attempt() -> None:
    app, ran, attempts = App(), Ledger(), list[int]()

    async def middle() -> str:
        leaf = await current_step().run("leaf", ran.note, "leaf")
        if len(attempts) == 1:
            await asyncio.sleep(3600)
        return leaf

    async def outer() -> str:
        attempts.append(current_step().attempt)
        async with asyncio.timeout(0.05):
            return await current_step().run("middle", middle)

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("outer", outer)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        await t.advance("1 minute")
        assert await execution.result() == "leaf"
    assert (ran, attempts) == (["leaf"], [1, 2])


# ------------------------------------------------------------------------------------------------- callers


async def test_a_second_caller_of_the_name_gets_the_same_result() -> None:
    app, gate = App(), Gate()

    @app.workflow
    async def flow(step: Step) -> list[object]:
        both = await asyncio.gather(*(step.map("map", range(3), gate.body) for _ in range(2)))
        assert both[0] is not both[1]
        return [*both, await step.map("map", range(3), gate.body)]

    async with sandbox(app):
        execution = await flow.trigger()
        await until(lambda: len(gate.began) == 3)
        gate.open()
        assert await execution.result() == [[0, 10, 20]] * 3
    assert gate.began == [0, 1, 2]


async def test_other_items_under_the_same_name_are_flagged() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> list[object]:
        return [await step.map("map", [1, 2], ten_times), await step.map("map", [3, 4], ten_times)]

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == [[10, 20], [10, 20]]
        assert (await by_path(execution))["map"].flag == "repeated"


@pytest.mark.parametrize("first_in_task", [False, True])
async def test_a_map_goes_on_undisturbed_when_one_of_two_callers_is_cancelled(first_in_task: bool) -> None:
    app, gate = App(), Gate()

    @app.workflow
    async def flow(step: Step) -> list[int]:
        async def call() -> list[int]:
            return await step.map("map", range(4), gate.body, concurrency=2)

        first, second = asyncio.create_task(call()), asyncio.create_task(call())
        await until(lambda: len(gate.began) == 2)
        (first if first_in_task else second).cancel()
        await asyncio.sleep(0.01)
        gate.open()
        return await (second if first_in_task else first)

    async with sandbox(app):
        assert await (await flow.trigger()).result() == [0, 10, 20, 30]
    assert (gate.began, gate.cancelled) == ([0, 1, 2, 3], [])


async def test_the_performing_caller_may_be_cancelled_while_another_waits() -> None:
    """The first caller is the workflow function itself, in whose task the call is made."""
    app, gate = App(), Gate()

    @app.workflow
    async def flow(step: Step) -> list[int]:
        async def call() -> list[int]:
            return await step.map("map", range(4), gate.body, concurrency=2)

        async def second_call() -> list[int]:
            await until(lambda: len(gate.began) == 2)
            return await call()

        second = asyncio.create_task(second_call())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await call()
        gate.open()
        return await second

    async with sandbox(app):
        assert await (await flow.trigger()).result() == [0, 10, 20, 30]
    assert (gate.began, gate.cancelled) == ([0, 1, 2, 3], [])


async def test_a_map_that_workflow_code_cancels_is_recorded_so_and_stays_so() -> None:
    app, gate, seen = App(), Gate(), Ledger()

    @app.workflow
    async def flow(step: Step) -> str:
        task = asyncio.create_task(step.map("map", range(6), gate.body, concurrency=2))
        if not seen:
            await until(lambda: len(gate.began) == 3)
        else:
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])
        seen.append(f"cancelled {task.cancelled()}")
        await step.sleep("nap", HOUR)
        return seen[-1]

    async with sandbox(app) as t:
        execution = await flow.trigger()
        gate.open(0)
        await until(lambda: not in_memory(t) and seen)
        found = await statuses(execution)
        await t.crash()
        await t.advance(HOUR)
        assert await execution.result() == "cancelled True"
    assert {path: found.get(path) for path in ("map", "map/0", "map/1", "map/2", "map/3")} == {
        "map": "cancelled",
        "map/0": "completed",
        "map/1": "cancelled",
        "map/2": "cancelled",
        "map/3": None,
    }
    assert gate.began == [0, 1, 2]


async def test_an_item_that_swallows_its_cancellation_changes_nothing() -> None:
    app, began = App(), Ledger()

    async def stubborn(item: int) -> int:
        began.append(str(item))
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return item
        return -1

    @app.workflow
    async def flow(step: Step) -> str:
        try:
            async with asyncio.timeout(0.05):
                await step.map("map", range(6), stubborn, concurrency=2)
        except TimeoutError:
            return "cancelled"
        return "went on"

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == "cancelled"
        assert await statuses(execution) == dict.fromkeys(["map", "map/0", "map/1"], "cancelled")
    assert began == ["0", "1"]


# ------------------------------------------------------------------------------------------------- what it costs


async def test_items_that_wait_for_their_turn_cost_no_task_and_ended_ones_nothing() -> None:
    app, most, dropped = App(), 0, 0

    class Item:
        def __del__(self) -> None:
            nonlocal dropped
            dropped += 1

    async def body(item: Item) -> int:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()))
        await current_step().run("inner", lambda: bool(item))
        return dropped

    @app.workflow
    async def flow(step: Step) -> int:
        before = len(asyncio.all_tasks())
        gone = await step.map("map", [Item() for _ in range(500)], body, concurrency=5)
        assert most < before + 50
        return gone[-1]

    async with sandbox(app):
        assert await (await flow.trigger()).result() > 450


async def test_nothing_of_a_fan_out_outlives_its_execution() -> None:
    app = App()

    class Tool:
        async def use(self, item: int) -> int:
            await current_step().run("inner", self.leaf)
            await current_step().sleep(HOUR)
            return item

        async def leaf(self) -> None:
            pass

        async def outer(self) -> None:
            await current_step().run("inner", self.leaf)

    async with sandbox(app) as t:

        @app.workflow
        async def flow(step: Step) -> None:
            tool = Tool()
            refs.append(weakref.ref(tool))
            await step.run("run", tool.outer)
            await step.map("map", range(3), tool.use)

        refs: list[weakref.ref[Tool]] = []
        execution = await flow.trigger()
        await t.advance(HOUR)
        await execution.result()
        for _ in range(3):  # what one pass frees may have held, unseen, what the next one frees
            gc.collect()
        assert [ref() for ref in refs] == [None, None]
