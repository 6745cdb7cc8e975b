"""`step.within` and `step.race`: what happened first is recorded, so a replay takes the same way.

The coroutines are workflow code, run in tasks of their own; step calls inside belong to the surrounding scope. On replay a
decided loser is closed unstarted, while the winner runs again over its recorded steps and so gives the same value.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeAlias, TypeVar

from stepwell._engine.call import Call, Work
from stepwell._engine.failure import record_error
from stepwell._engine.outcome import Outcome
from stepwell._engine.waits import finished
from stepwell.errors import StepTimeoutError
from stepwell.store.records import HistoryRow
from stepwell.store.transitions import StepWaiting

T = TypeVar("T")

Branch: TypeAlias = Coroutine[Any, Any, T]


class Choice:
    """Base of both: branches that run as tasks of workflow code, and a recorded decision between them.

    `lose` is told which branch has lost, besides the cancelling of its task: a thread needs more than that. The recorded
    outcome of a choice only says what happened, so `value_of` gives something to await: the way that was taken.
    """

    kind = ""

    def __init__(self, branches: Mapping[str, Branch[Any]], lose: Callable[[str], None] | None = None) -> None:
        self._branches = dict(branches)
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._lose = lose

    def same_as(self, other: Work) -> bool:
        return isinstance(other, Choice) and list(other._branches) == list(self._branches)

    def close_unstarted(self) -> None:
        """Close what was never started, so that asyncio does not complain about it."""
        for key, branch in self._branches.items():
            if key not in self._tasks:
                branch.close()

    def rebuild(self, call: Call) -> None:
        """Run all branches over their records, for the undos of their steps; nothing is decided any more."""
        for key in self._branches:
            if key not in self._tasks:
                self._start(key).add_done_callback(_read)

    def _start(self, key: str) -> asyncio.Task[Any]:
        task = self._tasks[key] = asyncio.get_running_loop().create_task(self._branches[key])
        return task

    async def _end_losers(self, winner: str | None) -> None:
        losers = [task for key, task in self._tasks.items() if key != winner and not task.done()]
        for key, task in self._tasks.items():
            if key != winner and not task.done():
                if self._lose is not None:
                    self._lose(key)
                task.cancel()
        if losers:
            await asyncio.wait(losers)
        for key, task in self._tasks.items():
            if key != winner and task.done() and not task.cancelled():
                # A loser's error belongs to nobody; reading it keeps asyncio from logging it.
                task.exception()

    async def _run(self, key: str) -> object:
        """Wait for the decided branch, ending it with the caller."""
        task = self._tasks.get(key) or self._start(key)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            await self._end_losers(None)
            raise
        return task.result()


def _read(task: asyncio.Task[Any]) -> None:
    """An error that nobody awaits; reading it keeps asyncio from logging it."""
    if not task.cancelled():
        task.exception()


class WithinWork(Choice):
    """One branch against a stored deadline."""

    kind = "within"

    def __init__(self, branch: Branch[Any], lose: Callable[[str], None] | None = None) -> None:
        super().__init__({"": branch}, lose)
        self._length = 0

    def set_length(self, length: int) -> None:
        """Set the time, in microseconds, that the branch gets."""
        self._length = length

    def value_of(self, call: Call, text: str) -> Awaitable[object]:
        return self._run("")

    async def perform(self, call: Call, record: HistoryRow | None) -> Outcome:
        runner = call.runner
        call.input = json.dumps(self._length / 1_000_000)
        if record is not None and record.wake_at is not None:
            call.started_at, wake_at = record.started_at, record.wake_at
        else:
            call.started_at = runner.clock.now()
            wake_at = call.started_at + self._length
            await runner.record(
                StepWaiting(
                    runner.id,
                    runner.epoch,
                    runner.run,
                    call.path,
                    call.seq,
                    self.kind,
                    "sleeping",
                    call.input,
                    call.started_at,
                    wake_at,
                    False,
                )
            )
        # The branch starts before the deadline is looked at: what it finds recorded may carry it to its end.
        task = self._start("")
        await asyncio.sleep(0)
        deadline = runner.watch_deadline(wake_at, call.path)
        try:
            await runner.wait_for_first(call, [task, deadline])
            if task.done():
                await runner.record(finished(call, self.kind, "null"))
                return Outcome("completed", "null")
            error = record_error(StepTimeoutError(call.path, self._length / 1_000_000))
            await runner.record(finished(call, self.kind, None, error))
        except BaseException:
            await self._end_losers(None)
            raise
        finally:
            runner.end_deadline(deadline)
        await self._end_losers(None)
        return Outcome("failed", error)


class RaceWork(Choice):
    """Branches against each other; the first to end wins, whether it returns or raises."""

    kind = "race"

    def value_of(self, call: Call, text: str) -> Awaitable[object]:
        return self._winner(json.loads(text))

    async def _winner(self, key: str) -> tuple[str, object]:
        return key, await self._run(key)

    async def perform(self, call: Call, record: HistoryRow | None) -> Outcome:
        runner = call.runner
        call.input = json.dumps(list(self._branches))
        call.started_at = runner.clock.now()
        for key in self._branches:
            self._start(key)
        try:
            await runner.wait_for_first(call, self._tasks.values())
            winner = next(key for key, task in self._tasks.items() if task.done())
            await runner.record(finished(call, self.kind, json.dumps(winner)))
        except BaseException:
            await self._end_losers(None)
            raise
        await self._end_losers(winner)
        return Outcome("completed", json.dumps(winner))
