"""Where blocking functions run: the port of the engine for threads (time, chance and the store have ports of their own)."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import NamedTuple, Protocol


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
