"""What step bodies did, in a file of their own that knows nothing of stepwell's database.

A body writes one line when it begins and one when it ends, each in a single append that is on disk before it goes on.
So the file tells the truth even if the process is killed at any moment: a body without an end was cut off.
"""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from stepwell import current_step

T = TypeVar("T")

VARIABLE: Final = "SHOP_LEDGER"
DEFAULT: Final = Path(__file__).resolve().parent / ".stepwell" / "ledger.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the ledger."""

    event: str
    pid: int
    execution: str
    path: str
    attempt: int
    hash: str | None
    error: str | None
    time_us: int


@dataclass(slots=True, kw_only=True)
class Body:
    """One run of a step's body; without `ended_us` it was cut off, or still runs."""

    pid: int
    execution: str
    path: str
    attempt: int
    began_us: int
    ended_us: int | None = None
    hash: str | None = None
    error: str | None = None


# ------------------------------------------------------------------------------------------------------- writing


class Entry:
    """A body's begin and end; `with` in plain functions, `async with` where a slow disk must not stop the loop."""

    def __init__(self) -> None:
        step = current_step()
        self._execution = step.execution_id
        self._path = step.path
        self._attempt = step.attempt
        self._hash: str | None = None

    def result(self, value: T) -> T:
        """Note what the body is about to return, and give it back."""
        self._hash = digest(value)
        return value

    def __enter__(self) -> "Entry":
        self._write("begin", None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write("end", kind)

    async def __aenter__(self) -> "Entry":
        await asyncio.to_thread(self._write, "begin", None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._write, "end", kind)

    def _write(self, event: str, error: type[BaseException] | None) -> None:
        line = Line(
            event=event,
            pid=os.getpid(),
            execution=self._execution,
            path=self._path,
            attempt=self._attempt,
            hash=self._hash,
            error=None if error is None else error.__name__,
            time_us=time.time_ns() // 1000,
        )
        _append(json.dumps(asdict(line), ensure_ascii=False) + "\n")


def entry() -> Entry:
    """An entry for the body that is running."""
    return Entry()


def digest(value: object) -> str:
    """A short hash that a result has before it is stored, and its JSON in the database has, too."""
    plain: Any = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    text = json.dumps(plain, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _append(text: str) -> None:
    file = _file()
    os.write(file, text.encode())
    os.fsync(file)


@cache
def _file() -> int:
    path = Path(os.environ.get(VARIABLE) or DEFAULT)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # The process before this one may have been killed in the middle of a line: what it left stays alone.
    os.write(file, b"\n")
    return file


# ------------------------------------------------------------------------------------------------------- reading


class Reader:
    """Follows a ledger while it grows, and puts begins and ends together."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._open: dict[tuple[int, str, str, int], Body] = {}
        self.bodies: list[Body] = []

    def read(self) -> None:
        """Take in what has been written since the last time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, _, _ = file.read().rpartition(b"\n")
        if whole:
            self._offset += len(whole) + 1
            self.add(parse(whole))

    def add(self, lines: Iterable[Line]) -> None:
        """Put these lines after those that are known."""
        for line in lines:
            key = line.pid, line.execution, line.path, line.attempt
            if line.event == "begin":
                body = Body(
                    pid=line.pid, execution=line.execution, path=line.path, attempt=line.attempt, began_us=line.time_us
                )
                self.bodies.append(body)
                self._open[key] = body
            elif (body := self._open.pop(key, None)) is not None:
                body.ended_us, body.hash, body.error = line.time_us, line.hash, line.error

    def open_bodies(self, pid: int) -> list[Body]:
        """The bodies that this process has begun and not ended."""
        return [body for body in self._open.values() if body.pid == pid]


def parse(content: bytes) -> list[Line]:
    """The whole lines of a ledger; what a kill cut off in the middle is no line."""
    lines: list[Line] = []
    for text in content.split(b"\n"):
        try:
            lines.append(Line(**json.loads(text)))
        except (ValueError, TypeError):
            continue
    return lines
