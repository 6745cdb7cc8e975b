"""What executions in memory wait for from outside: events, and the ends of other executions.

Everything is in the database first. What this process itself writes is told here at once; for the rest the worker asks the
database now and then, at the latest by polling. Being told is only a hint: whoever waits looks into the database.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

Key = TypeVar("Key")

Hear: TypeAlias = Callable[[], None]


class Arrivals:
    """Who in this process waits for what."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, str], list[Hear]] = {}
        self._ends: dict[str, list[Hear]] = {}

    def expect_event(self, execution_id: str, name: str, hear: Hear) -> None:
        """Call `hear` when the execution gets an event of this name."""
        self._events.setdefault((execution_id, name), []).append(hear)

    def expect_end(self, execution_id: str, hear: Hear) -> None:
        """Call `hear` when the execution ends."""
        self._ends.setdefault(execution_id, []).append(hear)

    def forget_event(self, execution_id: str, name: str, hear: Hear) -> None:
        """It does not matter any more."""
        _remove(self._events, (execution_id, name), hear)

    def forget_end(self, execution_id: str, hear: Hear) -> None:
        """It does not matter any more."""
        _remove(self._ends, execution_id, hear)

    def event(self, execution_id: str, name: str) -> None:
        """There is an event."""
        for hear in list(self._events.get((execution_id, name), ())):
            hear()

    def end(self, execution_id: str) -> None:
        """The execution has ended."""
        for hear in list(self._ends.get(execution_id, ())):
            hear()

    def expected_events(self) -> list[tuple[str, str]]:
        """What is waited for, as (execution id, event name)."""
        return list(self._events)

    def expected_ends(self) -> list[str]:
        """The executions whose ends are waited for."""
        return list(self._ends)


def _remove(waiting: dict[Key, list[Hear]], key: Key, hear: Hear) -> None:
    left = [other for other in waiting.get(key, ()) if other != hear]
    if left:
        waiting[key] = left
    else:
        waiting.pop(key, None)
