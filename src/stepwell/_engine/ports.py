"""Where functions run: the ports of the engine for threads and processes (time, chance and the store have their own)."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from stepwell._engine.errand import Errand


class Returned(NamedTuple):
    """What a function gave when it ran elsewhere: a value, or the error that it raised (never both)."""

    value: object
    error: BaseException | None


class Executor(Protocol):
    """Where blocking functions run. The futures never raise; a cancelled one leaves its function running unheard."""

    def submit(self, context: contextvars.Context, fn: Callable[[], object]) -> asyncio.Future[Returned]:
        """Run a step body in a shared pool."""
        ...

    def spawn(self, context: contextvars.Context, fn: Callable[[], object]) -> asyncio.Future[Returned]:
        """Run a workflow function, which may wait for steps for long, in a thread of its own."""
        ...

    def close(self) -> None:
        """Let idle threads end; busy ones end when their function returns."""
        ...


@dataclass(frozen=True, slots=True)
class FarFacts:
    """What `current_step()` tells in a body that runs in another process."""

    kind: ClassVar[str] = "run"
    execution_id: str
    run: int
    generation: int
    created_at: int
    name: str
    path: str
    attempt: int
    index: int | None


class Processes(Protocol):
    """Where bodies run that need a processor of their own, or must be killed when they take too long."""

    def submit(self, errand: Errand, facts: FarFacts, on_start: Callable[[], object]) -> asyncio.Future[Returned]:
        """Run a body in a process, one at a time in each; waits for its turn when all are busy.

        The future never raises. Cancelling it kills the process, whatever it is doing.

        Args:
            errand: The function and its arguments.
            facts: Where in which execution it runs.
            on_start: Called in the event loop when a process has been given the body.
        """
        ...

    async def close(self) -> None:
        """End all processes, busy ones too; none is left on return."""
        ...
