"""A body that runs outside of the worker's own threads: in a process of ours, or wherever a user's executor runs it."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from typing import Any


class Errand:
    """One attempt of a body, to be called once, elsewhere; whoever runs it must be able to import stepwell.

    Nothing of the step's context comes along: what the thread that runs it inherited, if anything, is another step's.
    The key is new for each attempt, for some executors (Dask's) give calls that look the same one shared result.
    """

    __slots__ = ("args", "fn", "key")

    def __init__(self, fn: Callable[..., Any], args: tuple[object, ...], key: str) -> None:
        self.fn = fn
        self.args = args
        self.key = key

    @property
    def __name__(self) -> str:
        """What the executor's own tools show."""
        return getattr(self.fn, "__name__", "body")

    def __call__(self) -> object:
        return contextvars.Context().run(self.carry_out)

    def carry_out(self) -> object:
        """Call the function in this context; async ones in an event loop of their own."""
        value = self.fn(*self.args)
        return asyncio.run(_result(value)) if inspect.isawaitable(value) else value


async def _result(value: Awaitable[object]) -> object:
    return await value
