"""Bodies outside of the worker's own threads: what may go there, and how the worker waits for it.

Nothing durable is decided elsewhere. The worker that owns the execution measures the time, records what came back, and
drops what comes too late.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

from stepwell._engine.call import Call
from stepwell._engine.errand import Errand
from stepwell._engine.ports import FarFacts
from stepwell.errors import InvalidInputError

PROCESS: Final = "process"

Elsewhere: TypeAlias = "concurrent.futures.Executor | Literal['process']"
"""Where a body runs that does not run in the worker's own threads."""
ExecutorOption: TypeAlias = "Literal['thread', 'process'] | concurrent.futures.Executor"
"""What users may give as `executor=`."""


def checked_executor(executor: ExecutorOption, what: str, fn: Callable[..., Any]) -> Elsewhere | None:
    """Where `fn` is to run; None for the worker's own threads.

    Raises:
        InvalidInputError: There is no such executor.
        TypeError: The function cannot go to another process.
    """
    if executor == "thread":
        return None
    if executor == PROCESS:
        _check_importable(what, fn)
        return PROCESS
    if isinstance(executor, concurrent.futures.Executor):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        return executor
    raise InvalidInputError(f"executor must be 'thread', 'process' or a concurrent.futures.Executor, got {executor!r}.")


async def in_process(
    call: Call, fn: Callable[..., Any], args: tuple[object, ...], on_start: Callable[[], object]
) -> object:
    """Run a body in a process of our own. A caller who is cancelled (by a timeout, too) has the process killed."""
    value, error = await call.runner.host.processes.submit(_errand(call, fn, args), _facts(call), on_start)
    if error is not None:
        raise error
    return value


async def in_executor(
    executor: concurrent.futures.Executor, call: Call, fn: Callable[..., Any], args: tuple[object, ...]
) -> object:
    """Run a body in an executor of the user's. Once it runs there nobody can stop it: its result is dropped."""
    try:
        return await asyncio.wrap_future(executor.submit(_errand(call, fn, args)))
    except concurrent.futures.BrokenExecutor as error:
        raise concurrent.futures.BrokenExecutor(
            f"The executor of step {call.path!r} is broken, most likely because one of its processes has died: {error} Python's pools stay broken; executor='process' replaces a process that dies."
        ) from error


def _errand(call: Call, fn: Callable[..., Any], args: tuple[object, ...]) -> Errand:
    runner = call.runner
    return Errand(fn, args, f"{runner.id}/{call.path}/{runner.run}/{runner.epoch}/{call.attempt}")


def _facts(call: Call) -> FarFacts:
    runner = call.runner
    return FarFacts(
        execution_id=runner.id,
        run=runner.run,
        generation=runner.claimed.generation,
        created_at=runner.claimed.created_at,
        name=call.name,
        path=call.path,
        attempt=call.attempt,
        index=call.index,
    )


def _check_importable(what: str, fn: Callable[..., Any]) -> None:
    """Refuse functions that another process can't find under their name. Methods and the like are left to pickle."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if not inspect.isfunction(fn):
        return
    module = sys.modules.get(fn.__module__)
    problem = None
    if "<" in fn.__qualname__:
        problem = "it is a lambda or stands inside another function"
    elif _found(module, fn.__qualname__) is not fn:
        problem = f"{fn.__module__}.{fn.__qualname__} is not this function"
    elif fn.__module__ == "__main__" and _has_no_source(module):
        problem = "the main program is not a module that can be imported a second time"
    if problem is not None:
        raise TypeError(
            f"{what}(…, executor='process') needs a function that another process can import, got {fn!r}: {problem}. Define it at the top level of a module."
        )


def _found(module: object, qualname: str) -> object:
    for name in qualname.split("."):
        module = getattr(module, name, None)
    return module


def _has_no_source(main: Any) -> bool:
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    # `python -m package` runs `package.__main__`, which Python, too, refuses to import a second time.
    return file is None if spec is None else spec.name.rpartition(".")[2] == "__main__"
