"""What a runner needs of the worker that it lives in."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from stepwell._engine.arrivals import Arrivals
from stepwell._engine.call import Call
from stepwell._engine.deadlines import Deadlines
from stepwell._engine.failure import ErrorRegistry
from stepwell._engine.journal import Journal
from stepwell._engine.outcome import Stop
from stepwell._engine.ports import Executor, Processes
from stepwell.clock import Clock
from stepwell.ids import Rng
from stepwell.store.protocol import Store

if TYPE_CHECKING:
    from stepwell._engine.runner import Runner


class Host(Protocol):
    """What a runner needs of the worker that it lives in."""

    database: Store
    clock: Clock
    rng: Rng
    journal: Journal
    deadlines: Deadlines
    arrivals: Arrivals
    executor: Executor
    processes: Processes
    errors: ErrorRegistry
    payload_limit: int
    strict_names: bool
    record_arguments: bool
    bodies: dict[Call, int]
    """Running bodies and when they began, oldest first; long ones get announced."""
    resources: object
    stubs: Mapping[str, Callable[..., object]]
    """Functions that stand in for bodies in tests, by step name."""
    base_context: contextvars.Context

    def is_lease_sure(self) -> bool:
        """Whether the lease is known to be valid now: nobody can have taken anything away on the quiet."""
        ...

    def has_room(self) -> bool:
        """Whether there is room in memory for all who want to run."""
        ...

    def look(self) -> None:
        """Told when there may be more to claim."""
        ...

    def left(self, runner: Runner, stop: Stop) -> None:
        """Told once, when the incarnation is over and everything about it is written."""
        ...
