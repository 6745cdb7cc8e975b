"""The lanes of a fan-out: a few tasks of the engine that run its items, one after the other in each.

A lane takes the next item as soon as the one before is durable, so an item that has not begun costs nothing. From its
beginning to its end a lane counts as busy, except while its item rests; meanwhile the call of the fan-out itself rests.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from stepwell._engine.body import BodyWork
from stepwell._engine.bridge import carried
from stepwell._engine.call import Call
from stepwell._engine.invoke import record_cancelled
from stepwell._engine.outcome import Outcome


class Lanes:
    """Runs the items of one fan-out.

    Whoever drops an execution relies on this not leading back to a call: methods are told the call of the fan-out.

    Args:
        missing: The indices of the items to run.
        work_of: Makes the body of an item.
        ended: Told of each item with its outcome, once that is durable; False lets no further item begin.
    """

    __slots__ = ("_ended", "_missing", "_over", "_tasks", "_work_of", "broken", "halted")

    def __init__(
        self,
        missing: Sequence[int],
        work_of: Callable[[int], BodyWork],
        ended: Callable[[int, Call, Outcome], bool],
    ) -> None:
        self.halted = False
        """Whether no further item begins."""
        self.broken: Exception | None = None
        """Why an item could not be begun, or its end not be stored."""
        self._missing = iter(missing)
        self._work_of = work_of
        self._ended = ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[None] | None = None

    def start(self, call: Call, count: int) -> None:
        """Begin with so many lanes."""
        runner = call.runner
        call.calls = {}
        for _ in range(count):
            context = contextvars.copy_context()
            context.run(carried.set, False)
            task = runner.spawn(self._lane(call), context)
            self._tasks.add(task)
            task.add_done_callback(partial(self._lane_ended, call))
        runner.busy += count

    async def finish(self, call: Call) -> None:
        """Wait until all lanes have ended. If the last caller is cancelled meanwhile, so is what is in flight."""
        if not self._tasks:
            return
        runner = call.runner
        self._over = runner.loop.create_future()
        runner.rest(call)
        try:
            await self._over
        except asyncio.CancelledError:
            is_awaited = not call.cut and any(not future.done() for future in call.waiters or ())
            if runner.stop is None and not is_awaited:
                await self._cut(call)
            raise

    async def _cut(self, call: Call) -> None:
        self.halted = True
        # Before its items, so that none of them is ever recorded as cancelled in a fan-out that goes on.
        record_cancelled(call, cast("Any", call.work))
        for item in (call.calls or {}).values():
            item.cut = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _lane_ended(self, call: Call, task: asyncio.Task[None]) -> None:
        runner = call.runner
        self._tasks.discard(task)
        if not self._tasks:
            # First of all, or for a moment nothing of the execution would seem to be at work.
            runner.wake(call)
            if self._over is not None and not self._over.done():
                self._over.set_result(None)
        runner.busy -= 1
        if runner.waits or runner.holding:
            runner.check_park()

    async def _lane(self, call: Call) -> None:
        runner, history, in_flight = call.runner, call.runner.history, cast("dict[str, Call]", call.calls)
        prefix, task = f"{call.path}/", cast("asyncio.Task[Any]", asyncio.current_task())
        try:
            while not self.halted:
                if runner.stop is not None:
                    await runner.unwound()
                index = next(self._missing, None)
                if index is None:
                    return
                work = self._work_of(index)
                runner.seq += 1
                name = str(index)
                item = in_flight[name] = Call(
                    runner, call, name, prefix + name, runner.seq, work, task=task, callers=1, index=index
                )
                record = history.get(item.path) if history else None
                if record is not None:
                    item.seq = record.seq
                    item.announced = True
                try:
                    outcome = await work.perform(item, record)
                except BaseException as error:
                    runner.wake(item)
                    outcome = await self._interrupted(index, item, work, error)
                self._take(index, item, outcome)
        except asyncio.CancelledError:
            # Not left to the task, which would keep it with all its frames: these know calls, calls know the task, and
            # there the garbage collector loses the trail.
            return

    def _take(self, index: int, item: Call, outcome: Outcome) -> None:
        if not self._ended(index, item, outcome):
            self.halted = True
        if item.parent is not None and item.parent.calls is not None:
            item.parent.calls.pop(item.name, None)
        if item.calls is not None:
            item.take_apart()

    async def _interrupted(self, index: int, item: Call, work: BodyWork, error: BaseException) -> Outcome:
        """An item came to no recorded end in its lane; gives its outcome after all, or raises what ends the lane."""
        runner = item.runner
        if isinstance(error, Exception):
            # It could not be begun, or its end not be stored: there is no outcome that a replay would find.
            self.halted = True
            self.broken = self.broken or error
            raise asyncio.CancelledError from error
        if not isinstance(error, asyncio.CancelledError) or runner.stop is not None:
            raise error
        if item.cut:
            if item.outcome is None:
                record_cancelled(item, work)
            else:
                self._take(index, item, item.outcome)
            raise error
        # The body has cancelled the task that it runs in, by itself and for good.
        while item.task is not None and item.task.cancelling():
            item.task.uncancel()
        if item.outcome is None:
            return await work.fail(item, error)
        await runner.host.journal.flush()
        return item.outcome
