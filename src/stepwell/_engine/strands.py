"""Counting the tasks that user code starts inside an execution.

asyncio tells nobody which tasks belong together, but the engine must know: tasks of workflow code end with their execution,
and an execution does not leave memory while one of its bodies is busy. A task factory sees every task at its birth, and the
step context, which tasks inherit, says whose it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from stepwell._engine.call import current


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
