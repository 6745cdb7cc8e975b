"""`step.sleep` and `step.sleep_until`: pauses whose end is stored before they begin and never changes."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest

from stepwell import App, Step, SyncStep, Workflow
from stepwell.errors import InvalidInputError
from stepwell.testing import sandbox
from tests.engine.conftest import Ledger, in_memory, statuses

pytestmark = pytest.mark.anyio

START = datetime(2030, 1, 1, tzinfo=UTC)


def sleeper(ledger: Ledger, duration: str | float | timedelta) -> tuple[App, Workflow[None, str]]:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        await step.run("before", ledger.note, "before")
        await step.sleep("nap", duration)
        await step.run("after", ledger.note, "after")
        return "slept"

    return app, workflow


async def test_short_sleep_stays_in_memory_with_its_end_recorded(ledger: Ledger) -> None:
    app, workflow = sleeper(ledger, 5)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        info, [_, nap] = await execution.info(), await execution.steps()
        assert in_memory(t) == {execution.id}
        assert (info.status, info.waiting_for, info.wake_at) == ("sleeping", "nap", START + timedelta(seconds=5))
        assert (nap.kind, nap.status, nap.wake_at) == ("sleep", "sleeping", START + timedelta(seconds=5))


async def test_sleep_of_more_than_5_seconds_leaves_memory(ledger: Ledger) -> None:
    app, workflow = sleeper(ledger, 5.001)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        info, [_, nap] = await execution.info(), await execution.steps()
        wake_at = START + timedelta(seconds=5.001)
        assert in_memory(t) == set()
        assert (info.status, info.waiting_for, info.wake_at) == ("sleeping", "nap", wake_at)
        assert (nap.kind, nap.status, nap.wake_at) == ("sleep", "sleeping", wake_at)


@pytest.mark.parity("P3.4")
@pytest.mark.parametrize("seconds", [3, 30, 30 * 24 * 3600])
async def test_sleep_ends_at_its_time_and_not_before(ledger: Ledger, seconds: int) -> None:
    app, workflow = sleeper(ledger, seconds)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance(seconds - 0.001)
        assert (await execution.status(), ledger) == ("sleeping", ["before"])

        await t.advance(0.001)
        info = await execution.info()
        assert (info.status, info.output, info.finished_at) == (
            "completed",
            "slept",
            START + timedelta(seconds=seconds),
        )
        assert (info.wake_at, info.waiting_for) == (None, None)

    assert ledger == ["before", "after"]


async def test_status_is_running_again_after_a_short_sleep() -> None:
    app, may_end = App(), asyncio.Event()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.sleep("nap", 2)
        await step.run("busy", may_end.wait)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        t.clock.move_to(t.clock.now() + 2_000_000)
        shown: list[str] = []
        async for info in execution.watch():
            shown.append(info.status)
            if info.status == "running":
                assert (info.wake_at, info.waiting_for) == (None, None)
                may_end.set()

    assert shown[-2:] == ["running", "completed"]


@pytest.mark.parity("P1.9")
@pytest.mark.guarantee("G6")
@pytest.mark.parametrize("duration", ["5 seconds", "30 seconds", 5, 30])
async def test_sleep_is_neither_repeated_nor_cut_short_nor_prolonged_by_crashes(
    ledger: Ledger, duration: str | int
) -> None:
    app, workflow = sleeper(ledger, duration)
    seconds = int(str(duration).split(maxsplit=1)[0])

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        for _ in range(3):
            await t.advance(1)
            await t.crash()
        await t.settle()
        [_, nap] = await execution.steps()
        assert nap.wake_at == START + timedelta(seconds=seconds)

        await t.advance(seconds - 3.001)
        await t.crash()
        await t.settle()
        assert ledger == ["before"]

        await t.advance(0.001)
        assert (await execution.info()).finished_at == START + timedelta(seconds=seconds)
        await t.crash()
        await t.advance("1 day")

    assert ledger == ["before", "after"]


@pytest.mark.parity("P5.5")
@pytest.mark.guarantee("G6")
@pytest.mark.parametrize("duration", ["4 seconds", "1 minute"])
async def test_sleep_keeps_its_end_over_a_restart(ledger: Ledger, duration: str, tmp_path: Path) -> None:
    (app, workflow), database = sleeper(ledger, duration), f"sqlite:///{tmp_path / 'test.db'}"

    async with sandbox(app, database=database) as t:
        execution = await workflow.trigger()
        await t.advance(1)
        wake_at = (await execution.info()).wake_at
        assert wake_at is not None
    async with sandbox(app, database=database, start=wake_at - timedelta(seconds=1)) as t:
        await t.settle()
        assert ledger == ["before"]
        await t.advance(1)
        assert (await workflow.get_execution(execution.id).info()).finished_at == wake_at

    assert ledger == ["before", "after"]


@pytest.mark.guarantee("G6")
@pytest.mark.parametrize("duration", ["4 seconds", "1 minute"])
async def test_sleep_that_ended_while_nobody_ran_is_over_at_once(ledger: Ledger, duration: str, tmp_path: Path) -> None:
    (app, workflow), database = sleeper(ledger, duration), f"sqlite:///{tmp_path / 'test.db'}"

    async with sandbox(app, database=database) as t:
        execution = await workflow.trigger()
        await t.settle()
    async with sandbox(app, database=database, start=START + timedelta(days=1)) as t:
        await t.settle()
        info = await workflow.get_execution(execution.id).info()
        assert (info.status, info.finished_at) == ("completed", START + timedelta(days=1))


async def test_finished_sleep_is_not_slept_again(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        for number in range(3):
            await step.sleep(f"nap {number}", "10 seconds")
            await step.run(f"note {number}", ledger.note, str(number))

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        for _ in range(3):
            await t.advance("10 seconds")
            await t.crash()
            await t.settle()

        assert (await execution.info()).finished_at == START + timedelta(seconds=30)

    assert ledger == ["0", "1", "2"]


@pytest.mark.parametrize("duration", [0, -1, -0.5, "0 seconds", timedelta(0), timedelta(days=-1)])
async def test_zero_and_negative_sleeps_return_at_once(ledger: Ledger, duration: str | float | timedelta) -> None:
    app, workflow = sleeper(ledger, duration)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        info = await execution.info()
        assert (info.status, info.finished_at) == ("completed", START)
        assert await statuses(execution) == {"before": "completed", "nap": "completed", "after": "completed"}


@pytest.mark.parametrize("duration", ["soon", "", "5 parsecs", {}, "nan", float("nan"), float("inf"), [5], "-"])
async def test_garbage_is_refused(duration: object) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        try:
            await step.sleep("nap", cast("Any", duration))
        except ValueError as error:
            return str(error)
        return "slept"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        assert "seconds" in await execution.result(5)
        assert await execution.steps() == []


async def test_sleep_beyond_the_calendar_is_refused() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        try:
            await step.sleep("nap", timedelta.max)
        except ValueError:
            return "refused"
        return "slept"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        assert await execution.result(2) == "refused"


# Without a name


@pytest.mark.parity("P1.9")
async def test_nameless_sleeps_are_told_apart_by_their_order(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.sleep("10 seconds")
        await step.run("first", ledger.note, "first")
        await step.sleep("20 seconds")
        await step.run("second", ledger.note, "second")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("10 seconds")
        await t.crash()
        await t.advance("19 seconds")
        assert ledger == ["first"]

        await t.advance("1 second")
        assert (await execution.info()).finished_at == START + timedelta(seconds=30)

    assert ledger == ["first", "second"]


async def test_nameless_sleeps_of_bodies_are_their_own() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        async def body() -> None:
            await step.sleep(10)

        await step.sleep(10)
        await step.run("a", body)
        await step.run("b", body)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("1 minute")

        assert (await execution.info()).finished_at == START + timedelta(seconds=30)


async def test_nameless_sleep_in_a_branch_asks_for_a_name() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        _, refused = await asyncio.gather(step.sleep("nap", 1), step.sleep(1), return_exceptions=True)
        assert isinstance(refused, ValueError)
        return str(refused)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("1 minute")

        assert "name" in await execution.result(5)


async def test_nameless_sleep_in_a_carried_thread_asks_for_a_name() -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> str:
        refused: list[str] = []

        def branch() -> None:
            try:
                step.sleep(1)
            except ValueError as error:
                refused.append(str(error))

        thread = threading.Thread(target=step.carry(branch))
        thread.start()
        thread.join()
        return refused[0]

    async with sandbox(app) as t:
        assert "name" in await (await workflow.trigger()).result(5)
        await t.settle()


@pytest.mark.parity("P1.16")
async def test_bare_number_of_1000_or_more_warns_with_the_unit(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        await step.sleep(1000)

    async with sandbox(app) as t:
        await workflow.trigger()
        await t.settle()

    [warning] = [record.message for record in caplog.records if "1000" in record.message]
    assert "seconds" in warning


@pytest.mark.parametrize(("name", "duration"), [(999, None), ("1000 seconds", None), ("nap", 5000)])
async def test_other_sleeps_do_not_warn(
    name: str | int, duration: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        if duration is None:
            await step.sleep(name)
        else:
            await step.sleep(str(name), duration)

    async with sandbox(app) as t:
        await workflow.trigger()
        await t.settle()
        warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]

    assert warnings == []


# Until


def until(ledger: Ledger, when: object) -> tuple[App, Workflow[None, str]]:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        try:
            await step.sleep_until("nap", cast("Any", when))
        except ValueError as error:
            return str(error)
        await step.run("after", ledger.note, "after")
        return "slept"

    return app, workflow


@pytest.mark.parity("P5.5")
@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=2))])
async def test_sleep_until_ends_at_its_time(ledger: Ledger, zone: timezone) -> None:
    app, workflow = until(ledger, (START + timedelta(days=1)).astimezone(zone))

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        assert (in_memory(t), (await execution.info()).wake_at) == (set(), START + timedelta(days=1))

        await t.advance("1 day")
        assert (await execution.info()).finished_at == START + timedelta(days=1)


@pytest.mark.parity("P5.5")
@pytest.mark.parametrize(
    "when", [START, START - timedelta(days=1), datetime(1970, 1, 1, tzinfo=UTC), datetime.min.replace(tzinfo=UTC)]
)
async def test_sleep_until_the_past_returns_at_once(ledger: Ledger, when: datetime) -> None:
    app, workflow = until(ledger, when)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        info = await execution.info()
        assert (info.output, info.finished_at) == ("slept", START)


async def test_sleep_until_the_end_of_the_calendar_sleeps(ledger: Ledger) -> None:
    app, workflow = until(ledger, datetime.max.replace(tzinfo=UTC))

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("36500 days")

        assert (await execution.info()).wake_at == datetime.max.replace(tzinfo=UTC)


async def test_moment_that_utc_cannot_show_is_refused(ledger: Ledger) -> None:
    when = datetime.max.replace(tzinfo=timezone(-timedelta(hours=5)))
    app, workflow = until(ledger, when)

    async with sandbox(app) as t:
        with pytest.raises(InvalidInputError, match="year 10000"):
            await workflow.trigger(at=when)
        execution = await workflow.trigger()
        await t.settle()

        assert "year 10000" in str((await execution.info()).output)


@pytest.mark.parity("P5.5")
@pytest.mark.parametrize("when", [datetime(2031, 1, 1), date(2031, 1, 1), "tomorrow", "2031-01-01T00:00:00Z", 5, None])
async def test_sleep_until_refuses_what_is_no_aware_datetime(ledger: Ledger, when: object) -> None:
    app, workflow = until(ledger, when)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        assert "aware datetime" in await execution.result(5)
        assert (ledger, await execution.steps()) == ([], [])


async def test_sync_sleeps_end_at_their_time(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    def workflow(step: SyncStep) -> None:
        step.sleep(3)
        step.sleep("nap", "1 hour")
        step.run("note", ledger.note_in_thread, "note")
        step.sleep_until("later", START + timedelta(days=1))

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("1 hour")
        assert ledger == []
        await t.advance(3)
        assert ledger == ["note"]

        await t.advance("1 day")
        assert (await execution.info()).finished_at == START + timedelta(days=1)


async def test_sleep_is_shown_with_the_duration_as_its_input(ledger: Ledger) -> None:
    app, workflow = sleeper(ledger, "1 hour")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        [_, nap] = await execution.steps()
        assert "1 hour" in str(nap.input)


async def test_failed_clean_up_may_sleep(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> None:
        raise RuntimeError("of the user")

    @workflow.on_error
    async def clean_up(step: Step, error: BaseException) -> None:
        await step.run("before", ledger.note, "before")
        await step.sleep("nap", "1 hour")
        await step.run("after", ledger.note, "after")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        assert (await execution.status(), in_memory(t)) == ("sleeping", set())

        await t.advance("1 hour")
        assert await execution.status() == "failed"

    assert ledger == ["before", "after"]


async def test_sleeping_wakes_only_who_is_due(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step, seconds: int) -> None:
        await step.sleep("nap", seconds)
        await step.run("note", ledger.note, str(seconds))

    async with sandbox(app) as t:
        for seconds in (40, 20, 30, 10):
            await workflow.trigger(seconds)
        await t.advance(20)
        assert (ledger, in_memory(t)) == (["10", "20"], set())
        await t.advance(20)

    assert ledger == ["10", "20", "30", "40"]
