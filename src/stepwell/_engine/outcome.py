"""How things end, as data: what a call came to, and why an incarnation of an execution leaves memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from msgspec import Struct


class Outcome(Struct, frozen=True, gc=False):
    """What a step call came to, exactly as it is recorded: JSON text of the value or of the error."""

    status: Literal["completed", "failed", "cancelled"]
    text: str | None


UNWOUND_LIMIT: Final = 100
"""After so many step calls during unwinding a call hangs, so that `while True: except BaseException` cannot spin."""


class Unwound(asyncio.CancelledError):
    """Raised by step calls while their execution leaves memory; whatever user code makes of it is ignored.

    It derives from CancelledError because that is what asyncio, anyio and careful user code let pass.
    """


@dataclass(frozen=True, slots=True)
class Completed:
    """The function returned; `text` is its output."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The run failed; `error` is the record of the error."""

    error: str


@dataclass(frozen=True, slots=True)
class Aborted:
    """The code has ended the run; nothing else runs."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The run was cancelled and its undos have run."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class Park:
    """Everything waits for longer: leave memory until `wake_at`, or until something arrives."""

    wake_at: int | None
    waiting_for: str
    status: str


@dataclass(frozen=True, slots=True)
class Release:
    """Give the execution back, claimable from `wake_at`."""

    wake_at: int
    waiting_for: str | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """The execution belongs to somebody else now, or is over: write nothing."""


Stop: TypeAlias = Completed | Failed | Aborted | Cancelled | Park | Release | Lost
"""Why an incarnation stops; decided by the runner, never by what reaches the top of user code."""
