"""The closed vocabularies of the public API, and what users implement."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, Literal, Protocol, TypeAlias, get_args

Status: TypeAlias = Literal[
    "queued", "running", "sleeping", "listening", "paused", "completed", "failed", "cancelled", "aborted"
]
"""Status of an execution."""

StepStatus: TypeAlias = Literal["running", "retrying", "sleeping", "listening", "completed", "failed", "cancelled"]
"""Status of a step."""

STATUSES: Final[tuple[Status, ...]] = get_args(Status)
TERMINAL: Final[frozenset[str]] = frozenset({"completed", "failed", "cancelled", "aborted"})

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
"""What JSON can say."""


class PayloadCodec(Protocol):
    """What `App(codec=…)` takes: changes each stored payload on its way into the database and out of it.

    Both methods may be async. Plain ones run in the event loop, so they must be quick. `decode` gets what any `encode`
    has given before, by whatever keys and settings were in use then.
    """

    def encode(self, data: bytes, /) -> bytes | Awaitable[bytes]:
        """Give the bytes to store for this JSON text in UTF-8; need not give the same each time."""
        ...

    def decode(self, data: bytes, /) -> bytes | Awaitable[bytes]:
        """Give the bytes that `encode` was given; raise if they cannot be had."""
        ...
