"""Tasks of the engine itself."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def start(coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Run a coroutine of the engine, which belongs to no execution.

    What starts it is often a call from workflow code, whose context it must not inherit; nor may the task factory, which
    counts what workflow code starts, see it.
    """
    return asyncio.Task(coroutine, loop=asyncio.get_running_loop(), name=name, context=contextvars.Context())
