"""Counting the lines of user code inside an execution.

asyncio tells nobody which tasks belong together, but the engine must know: tasks of workflow code end with their execution,
and an execution does not leave memory while one of its bodies is busy. A task factory sees every task at its birth, and the
step context, which tasks inherit, says whose it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from stepwell._engine.call import Call, current


class Strands:
    """How many strands of an execution are open, and how many are busy inside step calls; see `runner.py` for the words."""

    __slots__ = ("busy", "open_bodies", "open_code")

    def __init__(self) -> None:
        self.open_code = 0
        self.open_bodies = 0
        self.busy = 0

    def enter_call(self, scope: Call, call: Call) -> None:
        """A strand of this scope is inside this call from now on."""
        if scope.is_body:
            scope.open_strands -= 1
            self.open_bodies -= 1
        else:
            self.open_code -= 1
        call.callers += 1
        if not call.resting:
            self.busy += 1

    def open_extra(self, scope: Call) -> None:
        """A thread of the user's own, which nobody counted, comes with a call."""
        if scope.is_body:
            scope.open_strands += 1
            self.open_bodies += 1
        else:
            self.open_code += 1

    def close_extra(self, scope: Call) -> None:
        """It has gone on its own way."""
        if scope.is_body:
            scope.open_strands -= 1
            self.open_bodies -= 1
        else:
            self.open_code -= 1

    def rest(self, call: Call) -> None:
        """The call waits for a stored time, or its body's own strands are counted from now on."""
        if not call.resting:
            call.resting = True
            self.busy -= call.callers

    def wake(self, call: Call) -> None:
        """The call has something to do again."""
        if call.resting:
            call.resting = False
            self.busy += call.callers

    def enter_body(self, call: Call) -> None:
        """A body begins: its own strand is open."""
        if not call.resting:
            call.resting = True
            self.busy -= call.callers
        call.open_strands = 1
        self.open_bodies += 1

    def leave_body(self, call: Call) -> None:
        """The body has ended; tasks that it left behind do not count any more."""
        self.open_bodies -= call.open_strands
        call.open_strands = call.tasks = 0
        if call.resting:
            call.resting = False
            self.busy += call.callers


def install(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Let executions see their tasks; returns what restores the loop. A factory that was there keeps making the tasks."""
    before = loop.get_task_factory()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        task: Any = asyncio.Task(coro, loop=loop, **options) if before is None else before(loop, coro, **options)
        context = options.get("context")
        scope = current.get(None) if context is None else context.get(current)
        if scope is not None and not scope.closed:
            scope.runner.adopt(task, scope)
        return task

    def restore() -> None:
        if loop.get_task_factory() is factory:
            loop.set_task_factory(before)

    loop.set_task_factory(factory)
    return restore
