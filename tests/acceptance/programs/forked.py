"""Use after fork: what the child of a process that has opened an app gets. Prints it as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

from tests.acceptance.programs import remote
from tests.acceptance.programs.remote import Order

warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forking with threads


def in_child(work: Callable[[], object]) -> str:
    """Fork, do it in the child, and give the error that it raised, or what it returned."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(4)
        try:
            text = f"returned {work()!r}"
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    text = b""
    while part := os.read(read, 4096):
        text += part
    os.close(read)
    _, status = os.waitpid(pid, 0)
    return "it hangs" if os.WIFSIGNALED(status) else text.decode()


def drive(coroutine: Coroutine[Any, Any, object]) -> object:
    """Run a coroutine to its first error, in a child whose event loop is a copy of its parent's."""
    asyncio._set_running_loop(None)
    return asyncio.run(coroutine)


async def with_worker() -> dict[str, str]:
    async with remote.app.running():
        execution = await remote.quick.trigger(Order("o", 1))
        await execution.result(5)
        saw = {
            "trigger": in_child(lambda: drive(remote.quick.trigger(Order("o", 2)))),
            "status": in_child(lambda: drive(execution.status())),
            "cancel": in_child(lambda: drive(execution.cancel())),
        }
        later = await remote.quick.trigger(Order("o", 3))
        saw["parent"] = str((await later.result(5)).total)
        return saw


def without_loop() -> dict[str, str]:
    remote.quick.list_executions_sync()
    return {
        "sync": in_child(remote.quick.list_executions_sync),
        "sync trigger": in_child(lambda: remote.quick.trigger_sync(Order("o", 4)).id),
        "parent sync": str(len(remote.quick.list_executions_sync().executions)),
    }


if __name__ == "__main__":
    result = asyncio.run(with_worker()) if sys.argv[1] == "with_worker" else without_loop()
    json.dump(result, sys.stdout)
