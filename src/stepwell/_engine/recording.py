"""The writing side of an execution in memory: every change goes through the journal, in order."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Never, TypeVar

from stepwell._engine.call import Call
from stepwell._engine.emit import Emitter
from stepwell._engine.host import Host
from stepwell._engine.outcome import Outcome, Stop
from stepwell._engine.rebuild import Rebuild
from stepwell._engine.strands import Strands
from stepwell.errors import PayloadCodecError
from stepwell.store.transitions import (
    ChildStarted,
    Exists,
    OwnerTransition,
    Progressed,
    Received,
    Refused,
    StepFinished,
    StepRetrying,
    StepWaiting,
    Transition,
    Verdict,
)

E = TypeVar("E", bound=Exception)

_PROGRESS: Final = (StepFinished, StepWaiting, StepRetrying)


class Recording(Strands, ABC):
    """What an incarnation writes, and what comes back."""

    __slots__ = ("_closing", "_crashed", "clock", "emitter", "epoch", "host", "id", "rebuilding", "stop", "writes")

    def __init__(self, host: Host, id: str, epoch: int, *, crashed: bool) -> None:
        super().__init__()
        self.host = host
        self.clock = host.clock
        self.id = id
        self.epoch = epoch
        self.stop: Stop | None = None
        self.writes = 0
        self.emitter: Emitter | None = None
        self.rebuilding: Rebuild | None = None
        self._crashed = crashed
        self._closing = False

    @abstractmethod
    async def unwound(self) -> Never:
        """Raise what a step call raises while the execution leaves memory; never returns."""
        raise NotImplementedError

    @abstractmethod
    def give_back(self, error: E) -> E:
        """This worker cannot go on with the execution, another may: release it, and say why."""

    @abstractmethod
    def settled(self, transition: Transition, verdict: Verdict) -> None:
        """The journal's answer to each transition of this execution."""

    async def record(self, transition: OwnerTransition) -> None:
        """Write a transition and return once it is durable.

        Raises:
            Exception: The transition cannot be stored.
            Unwound: The execution is leaving memory, or belongs to another worker.
        """
        if self.stop is not None:
            await self.unwound()
        verdict = await self.send(transition)
        if isinstance(verdict, Exception):
            raise self._refusal(verdict)
        if verdict is not None or self.stop is not None:
            await self.unwound()

    async def answer(
        self, transition: OwnerTransition, call: Call, outcome_of: Callable[[Verdict], Outcome | None]
    ) -> Verdict:
        """Write a transition that is answered, and give the answer.

        A caller that is cancelled meanwhile waits for the answer all the same: if that is an outcome, the call has it.

        Raises:
            Exception: The transition cannot be stored.
            Unwound: The execution is leaving memory, or belongs to another worker.
        """
        if self.stop is not None:
            await self.unwound()
        future = self.send(transition)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError as error:
                if self.stop is not None:
                    raise
                cancelled = error
        verdict = future.result()
        if cancelled is not None:
            outcome = outcome_of(verdict)
            if outcome is not None:
                call.settle_later(outcome)
            raise cancelled
        if isinstance(verdict, Exception):
            raise self._refusal(verdict)
        if isinstance(verdict, Refused) or self.stop is not None:
            await self.unwound()
        if isinstance(verdict, Received) or (isinstance(transition, ChildStarted) and not isinstance(verdict, Exists)):
            self.progressed()
        return verdict

    def _refusal(self, problem: Exception) -> Exception:
        """What a call raises whose record was not taken. It must not look like an outcome when the codec is to blame."""
        return self.give_back(problem) if isinstance(problem, PayloadCodecError) else problem

    def send(self, transition: OwnerTransition) -> asyncio.Future[Verdict]:
        """Write a transition of an execution that is not leaving; the future gives the verdict."""
        if self._crashed:
            self._note_progress(transition)
        if self.emitter is not None:
            self.emitter.flush()
        self.writes += 1
        return self.host.journal.append(transition, self)

    def note(self, transition: OwnerTransition) -> None:
        """Write a transition that nobody awaits; it stands before whatever is recorded later.

        Once it is decided how the execution leaves, only that decision is still written.
        """
        if (self.stop is not None and not self._closing) or self.rebuilding is not None:
            return
        if self._crashed:
            self._note_progress(transition)
        if self.emitter is not None:
            self.emitter.flush()
        self.writes += 1
        self.host.journal.note(transition, self)

    def _note_progress(self, transition: OwnerTransition) -> None:
        """After a crash, the first thing that is recorded sets the count of crashes to zero."""
        if isinstance(transition, _PROGRESS):
            self.progressed()
            self.note(Progressed(self.id, self.epoch))

    def progressed(self) -> None:
        """Something is recorded, and with it that crashes in a row are counted anew."""
        if self._crashed:
            self._crashed = False
            self.host.look()
