"""Running a function over its record once more, to have the undo functions of its steps again.

Nothing begins and nothing is written: a call that is recorded gives what is recorded, any other waits for ever. It is over
when all wanted undos are there, or when every strand has ended or waits. A failed step gives its error only once nothing
else moves, for the error may end strands that have undos to register. Races run all their branches, whoever had won.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final, Never

from stepwell._engine.background import start
from stepwell._engine.call import Call, Work
from stepwell._engine.outcome import Completed, Outcome, Stop
from stepwell.store.records import HistoryRow

if TYPE_CHECKING:
    from stepwell._engine.runner import Runner

log: Final = logging.getLogger("stepwell")

LOOK_SECONDS: Final = 0.01
GRACE_SECONDS: Final = 1.0
"""How long workflow code beside a call that waits for ever may take to reach its next step."""
PATIENCE_SECONDS: Final = 30.0
"""The same while no call waits: then the code itself takes its time, or hangs."""
_CALM: Final = 3
"""How many turns of the loop without a movement count as rest."""


class Rebuild:
    """The phase of the ending in which the function is run over its record."""

    def __init__(self, runner: Runner, wanted: Collection[str]) -> None:
        self.root = Call(runner, None, "", "", 0, None)
        self.bodies: list[Callable[..., Any]] = []
        """The functions of all recorded bodies: their code may mention undos of steps inside."""
        self._runner = runner
        self._wanted = set(wanted)
        self._moves = 0
        self._holds = False
        self._has_ended = False
        self._watch: asyncio.Task[None] | None = None

    async def run(self) -> object:
        self._runner.rebuilding = self
        self._watch = start(self._wait_until_over(), name=f"stepwell-rebuild-{self._runner.id}")
        return await self._runner.call_function()

    def raised(self, error: BaseException) -> None:
        log.debug("Execution %s raised again while its undos were looked for: %r", self._runner.id, error)

    def over(self, stop: Stop) -> None:
        self._runner.rebuilding = None
        if self._watch is not None:
            self._watch.cancel()

    def function_ended(self) -> None:
        """The function has returned or raised; tasks that it started may go on."""
        self._has_ended = True

    def found(self, path: str) -> None:
        """An undo is registered."""
        self._moves += 1
        self._wanted.discard(path)
        if not self._wanted:
            self._runner.request_stop(Completed("null"))

    async def take_over(self, call: Call, work: Work, record: HistoryRow | None) -> None:
        """Give a call its recorded outcome, or wait for ever."""
        self._moves += 1
        fn = getattr(work, "fn", None)
        if fn is not None:
            self.bodies.append(fn)
        rebuild = getattr(work, "rebuild", None)
        if rebuild is not None:
            rebuild(call)
        if record is None or record.kind != work.kind or record.status not in ("completed", "failed"):
            await self._hold(call)
        call.seq = record.seq
        if record.status == "failed":
            await self._calm()
            call.settle(Outcome("failed", record.error))
        else:
            call.settle(Outcome("completed", record.output))
            self._runner.take_undo(record, work)
        self._moves += 1
        if self._runner.stop is not None:
            await self._runner.unwound()

    async def _hold(self, call: Call) -> Never:
        runner, scope = self._runner, call.parent or self.root
        self._holds = True
        runner.enter_call(scope, call)
        runner.rest(call)
        try:
            while True:
                await runner.loop.create_future()
        finally:
            runner.leave_call(scope, call)

    async def _calm(self) -> None:
        moves, turns = self._moves, 0
        while turns < _CALM:
            await asyncio.sleep(0)
            turns = turns + 1 if moves == self._moves else 0
            moves = self._moves

    async def _wait_until_over(self) -> None:
        runner = self._runner
        moves, since = -1, 0.0
        while runner.stop is None:
            if self._has_ended and not runner.pending_tasks():
                break
            if self._holds and runner.open_code <= 0 and runner.busy <= 0:
                break
            if moves != self._moves:
                moves, since = self._moves, runner.loop.time()
            elif runner.loop.time() - since >= (GRACE_SECONDS if self._holds else PATIENCE_SECONDS):
                if not self._holds:
                    log.warning("The code of execution %s does not go on while its undos are looked for", runner.id)
                break
            await asyncio.sleep(LOOK_SECONDS)
        runner.request_stop(Completed("null"))
