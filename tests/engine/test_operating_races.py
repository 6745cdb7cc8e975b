"""Operations against each other and against what the engine does, a thousand times each.

Whatever comes first: a run has one end, nothing is stranded, no body runs twice in a run, and what a call answered is true.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stepwell import App, Execution, Step, Workflow, current_step
from stepwell.errors import InvalidTransitionError
from stepwell.testing import Tester, sandbox
from stepwell.types import TERMINAL
from tests.engine.conftest import in_memory, until

pytestmark = pytest.mark.anyio

TIMES = 1_000


class Race:
    """A thousand executions, to each of which something is done at a moment of its own.

    The moment is counted in answers of the database, not in time: those come in order with what the executions write, so on
    any machine some come early and some late.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._gate = asyncio.Semaphore(10)
        self.bodies: Counter[tuple[str, int, str]] = Counter()
        self.begun = 0

    async def body(self) -> str:
        step = current_step()
        self.bodies[step.execution_id, step.run_number, step.path] += 1
        await asyncio.sleep(0)
        return step.path

    async def trigger_and(
        self, workflow: Workflow[None, str], *doing: Callable[[Execution[str]], Awaitable[object]]
    ) -> tuple[list[Execution[str]], list[list[bool]]]:
        """Start all, do each of these to each of them, and give the executions and the answers."""

        async def one() -> tuple[Execution[str], list[bool]]:
            execution = await workflow.trigger()
            return execution, await at_once(*(self.later(execution, lambda do=do: do(execution)) for do in doing))

        both = await asyncio.gather(*(one() for _ in range(TIMES)))
        return [execution for execution, _ in both], [answers for _, answers in both]

    async def later(self, execution: Execution[str], do: Callable[[], Awaitable[object]]) -> bool:
        """Whether it was done; else it came too late, or too early."""
        for _ in range(self._random.randrange(8)):
            await execution.status()
        await self._some_turns()
        return await _is_done(do)

    async def ten_at_a_time(self, do: Callable[[], Awaitable[object]]) -> bool:
        """The same, now."""
        async with self._gate:
            self.begun += 1
            await self._some_turns()
            return await _is_done(do)

    async def once_it_lives(self, execution: Execution[str]) -> bool:
        """Whether it was paused, as soon as it had not ended any more."""
        while True:
            await self._some_turns()
            try:
                await execution.pause()
            except InvalidTransitionError as error:
                if error.status == "failed":
                    continue
                return False
            return True

    async def _some_turns(self) -> None:
        for _ in range(self._random.randrange(8)):
            await asyncio.sleep(0)

    async def check(self, tester: Tester, executions: list[Execution[Any]], *, bodies_at_most: int = 1) -> None:
        """The invariants that hold after every race."""
        await tester.settle(30)
        assert in_memory(tester) == set()
        for execution in executions:
            runs = await execution.runs()
            assert all(run.status in TERMINAL for run in runs), runs
            assert all(run.finished_at is not None for run in runs)
            for run in runs:
                steps = await execution.steps(run.run)
                assert len({step.path for step in steps}) == len(steps)
                assert all(step.finished_at is not None for step in steps)
        assert max(self.bodies.values()) <= bodies_at_most


def two_steps(app: App, race: Race) -> Workflow[None, str]:
    @app.workflow
    async def workflow(step: Step) -> str:
        return await step.run("a", race.body) + await step.run("b", race.body)

    return workflow


async def _is_done(do: Callable[[], Awaitable[object]]) -> bool:
    try:
        await do()
    except InvalidTransitionError:
        return False
    return True


async def at_once(*doing: Awaitable[bool]) -> list[bool]:
    return list(await asyncio.gather(*doing))


async def test_cancel_against_completion() -> None:
    app, race = App(), Race(1)
    workflow = two_steps(app, race)

    async with sandbox(app) as t:
        executions, answers = await race.trigger_and(workflow, lambda execution: execution.cancel())
        cancelled = [done for [done] in answers]
        await race.check(t, executions)
        statuses = [await execution.status() for execution in executions]

    assert statuses == ["cancelled" if done else "completed" for done in cancelled]
    assert 0 < sum(cancelled) < TIMES


async def test_pause_against_retry() -> None:
    app, race = App(), Race(2)
    fail = True

    @app.workflow
    async def workflow(step: Step) -> str:
        if fail:
            raise ValueError("no")
        return await step.run("a", race.body) + await step.run("b", race.body)

    async with sandbox(app) as t:
        executions = [await workflow.trigger() for _ in range(TIMES)]
        await t.settle(30)
        fail = False
        answers = await asyncio.gather(
            *(
                at_once(
                    race.later(each, each.retry), race.once_it_lives(each) if i % 2 else race.later(each, each.pause)
                )
                for i, each in enumerate(executions)
            )
        )
        await t.settle(30)
        for execution, (retried, paused) in zip(executions, answers, strict=True):
            assert retried
            status = await execution.status()
            # A function that only has to return completes under a pause.
            assert status in (("paused", "completed") if paused else ("completed",))
            if status == "paused":
                await execution.resume()
        await race.check(t, executions)
        assert {(await execution.info()).status for execution in executions} == {"completed"}
        assert {(await execution.info()).run_number for execution in executions} == {2}
    assert 0 < sum(paused for _, paused in answers) < TIMES


async def test_restart_against_running() -> None:
    app, race = App(), Race(3)
    workflow = two_steps(app, race)

    async with sandbox(app) as t:
        results: list[asyncio.Task[str]] = []

        async def wait_and_restart(execution: Execution[str]) -> None:
            results.append(asyncio.create_task(execution.result(30)))
            await execution.restart()

        executions, restarted = await race.trigger_and(workflow, wait_and_restart)
        assert await asyncio.gather(*results) == ["ab"] * TIMES
        assert await asyncio.gather(*(execution.result(30) for execution in executions)) == ["ab"] * TIMES
        await race.check(t, executions)
        first = Counter([(await execution.runs())[0].status for execution in executions])
        second = Counter([(await execution.runs())[1].status for execution in executions])

    assert restarted == [[True]] * TIMES
    assert set(first) == {"cancelled", "completed"}
    assert second == {"completed": TIMES}


async def test_two_restarts_against_each_other() -> None:
    app, race = App(), Race(4)
    workflow = two_steps(app, race)

    async with sandbox(app) as t:
        again: Callable[[Execution[str]], Awaitable[None]] = lambda execution: execution.restart()  # noqa: E731
        executions, answers = await race.trigger_and(workflow, again, again)
        await race.check(t, executions)
        numbers = [(await execution.info()).run_number for execution in executions]

    assert numbers == [1 + sum(both) for both in answers]
    assert min(numbers) >= 2


async def test_pause_against_resume() -> None:
    app, race = App(), Race(5)
    workflow = two_steps(app, race)

    async with sandbox(app) as t:
        executions, _ = await race.trigger_and(
            workflow, lambda execution: execution.pause(), lambda execution: execution.resume()
        )
        await t.settle(30)
        paused = 0
        for execution in executions:
            if await execution.status() == "paused":
                paused += 1
                await execution.resume()
        await race.check(t, executions)
        assert {await execution.status() for execution in executions} == {"completed"}
    assert 0 < paused < TIMES


@pytest.mark.parametrize("seconds", [3, 3600], ids=["in-memory", "parked"])
async def test_wake_against_natural_wake_up(seconds: int) -> None:
    app, race = App(), Race(6)

    @app.workflow
    async def workflow(step: Step) -> str:
        await step.sleep("nap", seconds)
        return await step.run("a", race.body)

    async with sandbox(app) as t:
        executions = [await workflow.trigger() for _ in range(TIMES)]
        await t.settle(30)

        async def time_passes() -> None:
            await until(lambda: race.begun > TIMES / 2)
            due = t.clock.next_at()
            assert due is not None
            t.clock.move_to(max(due, t.clock.now() + seconds * 1_000_000))

        passing = asyncio.create_task(time_passes())
        woken = await at_once(*(race.ten_at_a_time(execution.wake) for execution in executions))
        await passing
        await race.check(t, executions)
        flags = [next(step.flag for step in await execution.steps() if step.path == "nap") for execution in executions]

    assert flags == ["woken" if done else None for done in woken]
    assert 0 < sum(woken) < TIMES
