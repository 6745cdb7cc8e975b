"""What every workload needs: rounds, figures with targets, scratch databases, child processes."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import Struct

from stepwell._worker.worker import Worker

ROOT: Final = Path(__file__).resolve().parent.parent
LONGEST_SECONDS: Final = 300.0
"""No workload takes so long; an engine that hangs fails its workload and not the whole run."""

T = TypeVar("T")


class Plan(Struct, frozen=True, kw_only=True):
    """How much is measured."""

    rounds: int = 5
    scale: float = 1.0
    seconds: float = 5.0
    """How long workloads run that are measured by time."""

    def size(self, full: int, *, least: int = 1) -> int:
        """A number of executions, steps or rows at this scale."""
        return max(least, int(full * self.scale))

    def few(self, most: int) -> range:
        """Rounds of a workload that takes long."""
        return range(min(self.rounds, most))


class Figure(Struct, frozen=True):
    """One measured quantity: a value for each round, judged by their median."""

    what: str
    unit: str
    values: list[float]
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def ok(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.at_least is not None:
            return self.median >= self.at_least
        if self.at_most is not None:
            return self.median <= self.at_most
        return None


def ratios(ours: Iterable[float], floor: Iterable[float]) -> list[float]:
    """Round by round, so that what the machine does meanwhile strikes both."""
    return [mine / theirs for mine, theirs in zip(ours, floor, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run one measurement in an event loop of its own, without the garbage of the one before."""
    gc.collect()
    return asyncio.run(asyncio.wait_for(work, LONGEST_SECONDS))


async def settled(worker: Worker) -> None:
    """Wait until a worker that has just started has looked through the queue: until then it starts nothing directly."""
    await until(worker.is_settled)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nobody announces, looking every millisecond."""
    while not condition():  # noqa: ASYNC110 - what is measured must not be changed to tell of itself
        await asyncio.sleep(0.001)


async def emptied(worker: Worker) -> None:
    """Wait until the last execution has left memory, and the queue: then everything about all of them is durable."""
    await until(lambda: not worker.residents and worker.is_settled())


def resident_bytes() -> int:
    """The memory of this process that is in RAM, the page cache of its connections included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def scratch() -> Generator[Path]:
    """A folder for one measurement, on the disk of the repository and never in memory; removed afterwards."""
    usual = Path(tempfile.gettempdir())
    parent = usual if usual.stat().st_dev == ROOT.stat().st_dev else ROOT
    with tempfile.TemporaryDirectory(prefix=".stepwell-bench-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def url(path: Path) -> str:
    """The database URL of a file."""
    return f"sqlite:///{path}"


class Child:
    """A Python process that runs an async function of this package and talks in lines of JSON; see `child.py`.

    It ends when the `with` block does, or when this process dies.
    """

    def __init__(self, target: str, **arguments: object) -> None:
        command = [sys.executable, "-m", "benchmarks.child", target, json.dumps(arguments)]
        self._target = target
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._patience = threading.Timer(LONGEST_SECONDS, self._process.kill)
        self._patience.daemon = True
        self._patience.start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def say(self, message: object = None) -> None:
        """Send a message that its `channel.hear()` returns."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """Wait for its next message."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The child process {self._target} ended with code {self._process.wait()}.")
        return json.loads(line)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._patience.cancel()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                stream.close()
