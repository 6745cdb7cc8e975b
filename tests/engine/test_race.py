"""`step.race`: the first of several branches of workflow code, the same one on every replay."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from stepwell import App, Step, SyncStep
from stepwell.testing import sandbox
from tests.engine.conftest import Ledger, in_memory, statuses, until

pytestmark = pytest.mark.anyio

START = datetime(2030, 1, 1, tzinfo=UTC)


async def test_first_branch_to_end_gives_key_and_value() -> None:
    app, paid = App(), asyncio.Event()

    @app.workflow
    async def workflow(step: Step) -> list[object]:
        async def payment() -> int:
            await paid.wait()
            return 17

        key, value = await step.race("first", paid=step.run("payment", payment), expired=step.sleep("expiry", "1 hour"))
        return [key, value]

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: t.worker.bodies)
        paid.set()

        assert await execution.result(5) == ["paid", 17]
        assert await statuses(execution) == {"first": "completed", "payment": "completed", "expiry": "cancelled"}


@pytest.mark.parametrize("pause", ["3 seconds", "1 hour"])
async def test_losing_body_is_cancelled_and_recorded_so(ledger: Ledger, pause: str) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def slow() -> None:
            ledger.append("began")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ledger.append("cancelled")
                raise

        key, _ = await step.race("first", paid=step.run("slow", slow), expired=step.sleep("expiry", pause))
        return key

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: ledger)
        t.clock.move_to(t.clock.now() + 3_600_000_000)

        assert await execution.result(5) == "expired"
        assert await statuses(execution) == {"first": "completed", "slow": "cancelled", "expiry": "completed"}

    assert ledger == ["began", "cancelled"]


async def test_winner_is_the_same_on_every_replay(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> list[str]:
        async def branch(name: str, seconds: int) -> str:
            ledger.append(f"{name} entered")
            await step.sleep(f"nap {name}", seconds)
            return await step.run(f"note {name}", ledger.note, name)

        key, value = await step.race("first", slow=branch("slow", 20), quick=branch("quick", 10))
        await step.sleep("later", "1 day")
        return [key, value]

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("1 hour")
        assert ledger.count("quick") == 1
        entered = ledger.count("slow entered")
        await t.crash()
        await t.advance("1 day")

        assert await execution.result(5) == ["quick", "quick"]

    assert ("slow" in ledger, ledger.count("quick"), ledger.count("slow entered")) == (False, 1, entered)


async def test_decided_losers_are_closed_unstarted_on_replay(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        key, _ = await step.race(
            "first",
            note=step.run("note", ledger.note, "note"),
            nap=step.sleep("nap", "1 hour"),
            day=step.sleep("day", "1 day"),
        )
        await step.sleep("later", "1 week")
        return key

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        for _ in range(3):
            await t.crash()
            await t.settle()
        await t.advance("2 weeks")

        assert await execution.result(5) == "note"

    assert ledger == ["note"]


async def test_error_of_the_winner_is_raised_live_and_on_replay() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def failing() -> None:
            raise KeyError("of the user")

        try:
            await step.race("first", failing=failing(), nap=step.sleep("nap", "1 hour"))
        except KeyError as error:
            await step.sleep("later", "1 day")
            return repr(error)
        return "no error"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("1 day")

        assert await execution.result(5) == "KeyError('of the user')"
        assert (await execution.info()).finished_at == START + timedelta(days=1)


async def test_error_of_a_loser_changes_nothing() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def failing() -> None:
            try:
                await step.sleep("nap", "1 hour")
            finally:
                raise RuntimeError("while it is cancelled")

        async def winner() -> str:
            return "value"

        _, value = await step.race("first", failing=failing(), winner=winner())
        return str(value)

    async with sandbox(app) as t:
        assert await (await workflow.trigger()).result(5) == "value"
        await t.settle()


async def test_steps_of_branches_belong_to_the_surrounding_scope(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def branch() -> str:
            await step.run("shared", ledger.note, "shared")
            return await step.run("more", ledger.note, "more")

        await step.race("first", only=branch())
        return await step.run("shared", ledger.note, "shared")

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        assert await execution.result(5) == "shared"
        assert await statuses(execution) == {"first": "completed", "shared": "completed", "more": "completed"}
        await t.settle()

    assert ledger == ["shared", "more"]


@pytest.mark.parametrize("reverse", [False, True])
async def test_race_of_waits_leaves_memory_until_the_earliest(reverse: bool) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        branches = {"short": step.sleep("short", "1 hour"), "long": step.sleep("long", "1 day")}
        key, _ = await step.race("first", **dict(sorted(branches.items(), reverse=reverse)))
        return key

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        info = await execution.info()
        assert (in_memory(t), info.status, info.wake_at) == (set(), "sleeping", START + timedelta(hours=1))

        await t.advance("1 hour")
        assert await execution.result(5) == "short"
        assert await statuses(execution) == {"first": "completed", "short": "completed", "long": "cancelled"}


async def test_winning_branch_goes_on_although_the_other_sleeps_for_long(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def busy() -> None:
            for number in range(3):
                await step.run(f"note {number}", ledger.note, str(number))

        key, _ = await step.race("first", busy=busy(), nap=step.sleep("nap", "1 hour"))
        return key

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        assert await execution.result(1) == "busy"

    assert ledger == ["0", "1", "2"]


async def test_crash_before_the_decision_keeps_what_branches_have_done(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def branch(name: str, seconds: int) -> None:
            await step.run(f"before {name}", ledger.note, name)
            await step.sleep(f"nap {name}", seconds)

        key, _ = await step.race("first", a=branch("a", 4), b=branch("b", 3))
        return key

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance(2)
        await t.crash()
        await t.advance(1)

        assert await execution.result(5) == "b"

    assert sorted(ledger) == ["a", "b"]


async def test_repeated_name_gives_the_first_result(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> list[object]:
        async def branch(text: str) -> str:
            return await step.run(f"note {text}", ledger.note, text)

        first = await step.race("first", a=branch("a"))
        second = await step.race("first", a=branch("b"))
        await step.sleep("nap", "1 hour")
        return [*first, *second]

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.advance("1 hour")

        assert await execution.result(5) == ["a", "a", "a", "a"]

    assert ledger == ["a"]


async def test_race_without_branches_is_refused() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        try:
            await step.race("first")
        except ValueError as error:
            return str(error)
        return "taken"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        assert "at least one branch" in await execution.result(5)
        assert await execution.steps() == []


@pytest.mark.parametrize("name", ["", "a" * 201, 5])
async def test_refused_call_closes_its_branches(name: object) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        try:
            await step.race(cast("str", name), a=step.sleep("a", 1), b=step.sleep("b", 1))
        except ValueError:
            return "refused"
        return "taken"

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        assert await execution.result(5) == "refused"


async def test_branch_may_have_any_name() -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        key, _ = await step.race("first", name=step.sleep("nap", 0), self=step.sleep("day", "1 day"))
        return key

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()

        assert await execution.result(5) == "name"


async def test_race_inside_a_body_is_decided_once(ledger: Ledger) -> None:
    app = App()

    @app.workflow
    async def workflow(step: Step) -> str:
        async def body() -> str:
            key, _ = await step.race("first", long=step.sleep("long", "2 hours"), short=step.sleep("short", "1 hour"))
            await step.sleep("later", "1 day")
            return key

        return await step.run("body", body)

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        assert in_memory(t) == set()
        await t.advance("2 days")

        assert await execution.result(5) == "short"
        assert (await execution.info()).finished_at == START + timedelta(days=1, hours=1)


# In threads


@pytest.mark.parametrize("pause", ["3 seconds", "1 hour"])
async def test_sync_branches_run_in_threads_of_their_own(ledger: Ledger, pause: str) -> None:
    app, threads = App(), set[int]()

    @app.workflow
    def workflow(step: SyncStep) -> list[str]:
        def branch(name: str, pause: str) -> str:
            threads.add(threading.get_ident())
            step.sleep(f"nap {name}", pause)
            return step.run(f"note {name}", ledger.note_in_thread, name)

        key, value = step.race("first", slow=lambda: branch("slow", "1 day"), quick=lambda: branch("quick", pause))
        step.sleep("later", "1 day")
        return [key, value]

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await t.settle()
        assert len(threads) == 2
        await t.advance("1 hour")
        await t.crash()
        await t.advance("2 days")

        assert await execution.result(5) == ["quick", "quick"]
        assert (await statuses(execution))["nap slow"] == "cancelled"

    assert ledger == ["quick"]


async def test_late_result_of_a_losing_thread_is_thrown_away(ledger: Ledger) -> None:
    app, may_end = App(), threading.Event()

    @app.workflow
    def workflow(step: SyncStep) -> str:
        def slow() -> str:
            step.run("slow", may_end.wait, 10)
            return step.run("never", ledger.note_in_thread, "never")

        key, _ = step.race("first", slow=slow, quick=lambda: step.sleep("nap", 3))
        return key

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        await until(lambda: t.worker.bodies)
        t.clock.move_to(t.clock.now() + 3_000_000)
        try:
            assert await execution.result(5) == "quick"
        finally:
            may_end.set()
        await asyncio.sleep(0.05)
        assert await statuses(execution) == {"first": "completed", "slow": "cancelled", "nap": "completed"}

    assert ledger == []


async def test_losing_thread_that_swallows_everything_does_not_spin() -> None:
    app, over, caught = App(), threading.Event(), [0]

    @app.workflow
    def workflow(step: SyncStep) -> str:
        def stubborn() -> None:
            while not over.is_set():
                try:
                    step.sleep("long", "1 hour")
                except BaseException:
                    caught[0] += 1

        key, _ = step.race("first", stubborn=stubborn, quick=lambda: step.sleep("short", 3))
        return key

    async with sandbox(app) as t:
        execution = await workflow.trigger()
        try:
            await t.advance(3)
            assert await execution.result(5) == "quick"
            await asyncio.sleep(0.1)
            assert caught[0] <= 110
        finally:
            over.set()
