"""Bodies for tests of executors: another process finds them by importing this module."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell import NonRetryableError, SyncStep, current_step


@dataclass
class Point:
    x: int
    y: int


class PickyError(Exception):
    """Cannot be unpickled: its `__init__` wants more than its args."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class FinalError(NonRetryableError):
    """No further attempt."""


class Unloadable:
    """Can be pickled; whoever unpickles it gets an error."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _explode, ()


def _explode() -> None:
    raise RuntimeError("exploded")


def add(one: int, other: int) -> int:
    return one + other


def move(point: Point, *, by: int) -> Point:
    return Point(point.x + by, point.y + by)


def pid() -> int:
    return os.getpid()


async def async_pid() -> int:
    await asyncio.sleep(0)
    return os.getpid()


def parent() -> int:
    return os.getppid()


def facts() -> dict[str, Any]:
    here = current_step()
    logging.getLogger("stepwell.step").setLevel(logging.INFO)
    here.log.info("from far away")
    return {
        "execution_id": here.execution_id,
        "run_number": here.run_number,
        "created_at": here.created_at.isoformat(),
        "attempt": here.attempt,
        "path": here.path,
        "index": here.index,
        "idempotency_key": here.idempotency_key,
        "uuid": str(here.uuid("u")),
        "random": here.random("r"),
    }


async def async_facts() -> dict[str, Any]:
    await asyncio.sleep(0)
    return facts()


async def nested_step() -> int:
    return await current_step().run("inside", pid)


def nested_sync_step() -> int:
    return current_step(SyncStep).run("inside", pid)


async def nested_sleep() -> None:
    await current_step().sleep("nap", 1)


def resources() -> object:
    return current_step().env


def no_context() -> str:
    return current_step().path


def fail_once(marks: str) -> str:
    """Fails until there is a mark in the folder."""
    if not list(Path(marks).iterdir()):
        mark(marks)
        raise ConnectionError("first")
    return "done"


def mark(folder: str) -> None:
    """Leave a file whose name tells this process."""
    (Path(folder) / f"{os.getpid()}-{time.monotonic_ns()}").touch()


def value_error() -> None:
    raise ValueError("of the body", 7)


def picky_error() -> None:
    raise PickyError(402, "declined")


def unpicklable_error() -> None:
    raise UnpicklableError


def final_error() -> None:
    raise FinalError("no more")


def leave(status: int) -> None:
    raise SystemExit(status)


def exit_at_once(marks: str, code: int) -> None:
    mark(marks)
    os._exit(code)


def exit_the_first_time(marks: str) -> str:
    if not list(Path(marks).iterdir()):
        mark(marks)
        os._exit(3)
    return "done"


def kill_yourself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash_hard() -> None:
    ctypes.string_at(0)


def lock() -> Any:
    return threading.Lock()


def nothing(argument: object) -> None:
    del argument


def hang(marks: str) -> None:
    """Deaf to everything but SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    mark(marks)
    while True:
        time.sleep(1)


def hang_the_first_time(marks: str) -> str:
    if not list(Path(marks).iterdir()):
        hang(marks)
    return "done"


def hang_with_a_helper(marks: str) -> None:
    """Starts a program of its own and waits for it."""
    helper = subprocess.Popen(["sleep", "1000"])
    (Path(marks) / f"{helper.pid}-helper").touch()
    mark(marks)
    helper.wait()


def spin(marks: str) -> None:
    """Busy, and never listening."""
    mark(marks)
    while True:
        pass


def wait_for(folder: str, name: str) -> int:
    """Leave a mark and wait until there is a file."""
    mark(folder)
    while not (Path(folder) / name).exists():
        time.sleep(0.005)
    return os.getpid()


def _tell_and_sleep(writer: Any) -> None:
    writer.send("here")
    time.sleep(1000)


def fork_and_terminate() -> int | None:
    """The exit code of a forked process that was asked to end."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_tell_and_sleep, args=(writer,))
    process.start()
    reader.recv()
    process.terminate()
    process.join()
    return process.exitcode


def length(data: bytes) -> int:
    return len(data)
