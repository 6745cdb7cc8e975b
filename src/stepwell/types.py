"""The closed vocabularies of the public API."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

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
