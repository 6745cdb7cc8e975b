"""Real worker processes on a real file, and what is known of them: the ledger, and every version of every row."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from stepwell import App

ROOT: Final = Path(__file__).parents[2]
PROGRAMS: Final = Path(__file__).parent / "programs"
TERMINAL: Final = ("completed", "failed", "cancelled", "aborted")
LOOK_SECONDS: Final = 0.005

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """A line of the ledger. `at` is in microseconds, as the times in the database."""

    at: int
    what: str
    pid: int
    execution: str = ""
    path: str = ""
    attempt: int = 0
    epoch: int = 0
    more: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def place(self) -> tuple[str, str]:
        return self.execution, self.path


class Process:
    """A started program. Its output is read here, so that no limit of the process on its files touches it."""

    def __init__(self, popen: subprocess.Popen[bytes], name: str) -> None:
        self._popen = popen
        self._output = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.name = name

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def log(self) -> str:
        """What it has written to standard output and standard error."""
        if self.ended:
            self._reader.join(5)
        return self._output.decode(errors="replace")

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    @property
    def exit_code(self) -> int | None:
        return self._popen.poll()

    def go(self) -> None:
        """Let a program that waits for it begin."""
        assert self._popen.stdin is not None
        with suppress(BrokenPipeError):
            self._popen.stdin.write(b"\n")
            self._popen.stdin.flush()

    def signal(self, number: int) -> None:
        if not self.ended:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a crash would, and be sure that it has ended."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float = 10.0) -> int:
        return self._popen.wait(seconds)

    def close(self) -> None:
        if not self.ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._popen.wait(10)
        self._reader.join(5)
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        descriptor = self._popen.stdout.fileno()
        while part := os.read(descriptor, 65_536):
            self._output += part


class Site:
    """A database file, a ledger, and the processes of one test."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "stepwell.db"
        self.url = f"sqlite:///{self.file}"
        self.ledger_file = folder / "ledger"
        self.ledger_file.touch()
        self.processes: list[Process] = []
        self._connection: sqlite3.Connection | None = None

    # Processes

    def start(self, program: str, *arguments: str, **environment: object) -> Process:
        """Start `programs/<program>.py`; a failing test shows its output."""
        paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        popen = subprocess.Popen(
            [sys.executable, str(PROGRAMS / f"{program}.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                "DATABASE": self.url,
                "LEDGER": str(self.ledger_file),
                **{name: str(value) for name, value in environment.items()},
            },
        )
        process = Process(popen, program)
        self.processes.append(process)
        return process

    def start_worker(self, program: str, *arguments: str, **environment: object) -> Process:
        """Start a program and wait until its worker runs."""
        process = self.start(program, *arguments, **environment)
        self.await_line(lambda line: line.pid == process.pid and line.what == "running", f"{program} to run")
        return process

    def close(self) -> None:
        for process in self.processes:
            process.close()
        if self._connection is not None:
            self._connection.close()

    def ask_for_stacks(self) -> None:
        """Let the living processes log what they are doing."""
        living = [process for process in self.processes if not process.ended and process.pid in self._running()]
        for number in (signal.SIGUSR2, signal.SIGUSR1):
            for process in living:
                process.signal(number)
            time.sleep(0.2)

    def _running(self) -> set[int]:
        return {line.pid for line in self.ledger() if line.what == "running"}

    def show_logs(self) -> str:
        return "\n".join(f"--- {p.name} {p.pid} exit {p.exit_code}\n{p.log[-8000:]}" for p in self.processes[-4:])

    # Waiting

    def until(self, condition: Callable[[], T], what: str, seconds: float = 10.0) -> T:
        """Look again and again until the condition gives something true."""
        deadline = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            if time.monotonic() > deadline:
                self.ask_for_stacks()
                raise AssertionError(f"Waited {seconds:g} s for {what}; {self.counts()}")
            time.sleep(LOOK_SECONDS)

    def await_line(self, condition: Callable[[Line], bool], what: str, seconds: float = 10.0) -> Line:
        """Wait for a line in the ledger."""
        return self.until(lambda: [line for line in self.ledger() if condition(line)], what, seconds)[0]

    def await_all_ended(self, seconds: float = 10.0) -> None:
        self.until(lambda: not self.living(), "all executions to end", seconds)

    def spare_the_innocent(self) -> None:
        """Wait until nobody would have crashed five times in a row by the next kill: that is taken for its own fault."""
        self.until(lambda: self.most_crashes() < 4, "those that have crashed to make progress", 15)

    def most_crashes(self) -> int:
        return self.value("SELECT COALESCE(MAX(crashes + crashed), 0) FROM executions WHERE finished_at IS NULL")

    # The ledger

    def ledger(self) -> list[Line]:
        lines: list[Line] = []
        for text in self.ledger_file.read_bytes().splitlines(keepends=True):
            if text.endswith(b"\n"):
                raw = json.loads(text)
                known = {
                    name: raw.pop(name)
                    for name in ("at", "what", "pid", "execution", "path", "attempt", "epoch")
                    if name in raw
                }
                lines.append(Line(**known, more=raw))
        return lines

    def lines(self, what: str, execution: str | None = None, path: str | None = None) -> list[Line]:
        return [
            line
            for line in self.ledger()
            if line.what == what and execution in (None, line.execution) and path in (None, line.path)
        ]

    def size(self) -> int:
        """How far the ledger has come; cheap."""
        return self.ledger_file.stat().st_size

    # The database

    def prepare(self, app: App, work: Callable[[], Awaitable[T]]) -> T:
        """Make the file, watch its rows, and let `work` fill it through the app's client."""

        async def fill() -> T:
            async with app.connected():
                self.audit()
                return await work()

        app.use_database(self.url)
        return asyncio.run(fill())

    def as_client(self, app: App, work: Callable[[], Awaitable[T]]) -> T:
        """Do something through a client of its own."""

        async def do() -> T:
            async with app.connected():
                return await work()

        app.use_database(self.url)
        return asyncio.run(do())

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        if self._connection is None:
            self._connection = sqlite3.connect(self.file, timeout=10, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
        return self._connection.execute(sql, parameters).fetchall()

    def value(self, sql: str, *parameters: object) -> Any:
        [[value]] = self.rows(sql, *parameters)
        return value

    def execution(self, id: str) -> Any:
        [row] = self.rows("SELECT * FROM stepwell_executions WHERE id = ?", id)
        return row

    def living(self) -> int:
        return self.value("SELECT COUNT(*) FROM executions WHERE finished_at IS NULL")

    def counts(self) -> dict[str, int]:
        if not self.file.exists():
            return {}
        return dict(self.rows("SELECT status, COUNT(*) FROM executions GROUP BY status"))

    def audit(self) -> None:
        """From now on keep a copy of every version of every row."""
        for table in ("executions", "steps", "attempts"):
            columns = [row["name"] for row in self.rows(f"SELECT name FROM pragma_table_info('{table}')")]
            self.rows(f"CREATE TABLE test_{table} (n INTEGER PRIMARY KEY, deed TEXT, {', '.join(columns)})")
            for deed, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
                values = ", ".join(f"{row}.{column}" for column in columns)
                self.rows(
                    f"CREATE TRIGGER test_{table}_{deed.lower()} AFTER {deed} ON {table} BEGIN"
                    f" INSERT INTO test_{table} SELECT NULL, '{deed}', {values}; END"
                )


def stop_outside_a_transaction(site: Site, worker: Process) -> None:
    """SIGSTOP; a process that is stopped inside a write transaction stops all others too, which is outside the promise."""
    while True:
        os.kill(worker.pid, signal.SIGSTOP)
        time.sleep(0.01)
        with sqlite3.connect(site.file, timeout=0.2, isolation_level=None) as probe, suppress(sqlite3.OperationalError):
            probe.execute("BEGIN IMMEDIATE")
            probe.execute("ROLLBACK")
            return
        os.kill(worker.pid, signal.SIGCONT)
        time.sleep(0.01)


# ------------------------------------------------------------------------------------------------------ the oracle


def check(site: Site, *, all_ended: bool = True, bodies_of_zombies: bool = False) -> None:
    """The invariants that hold for every program, whatever happened to its workers.

    With `bodies_of_zombies` a process that is stopped again and again, at any instruction, may begin bodies of what it has
    lost: it can write nothing, but nobody can keep it from what it was about to do.
    """
    versions = _versions(site, "executions", ("id",))
    for [id], history in versions.items():
        epochs = [row["epoch"] for row in history]
        assert epochs == sorted(epochs), f"I3 {id}: the epoch went back: {epochs}"
        ends = [number for number, row in enumerate(history) if row["status"] in TERMINAL]
        assert ends in ([], [len(history) - 1]), f"I11 {id} changed after its end"
        if ends:
            assert (history[-1]["owner"], history[-1]["wake_at"]) == (None, None), f"I8 {id}"
    if all_ended:
        assert site.living() == 0, site.counts()
    steps = _versions(site, "steps", ("execution_id", "run", "path"))
    _check_steps(steps)
    _check_writers(site)
    _check_values(site, steps)
    if not bodies_of_zombies:
        _check_bodies(site, steps)
    assert site.value("PRAGMA integrity_check") == "ok"


def _versions(site: Site, table: str, key: Sequence[str]) -> dict[tuple[Any, ...], list[sqlite3.Row]]:
    found: defaultdict[tuple[Any, ...], list[sqlite3.Row]] = defaultdict(list)
    for row in site.rows(f"SELECT * FROM test_{table} ORDER BY n"):
        assert row["deed"] != "DELETE", f"{table}: {tuple(row)} was deleted"
        found[tuple(row[name] for name in key)].append(row)
    return found


def _check_steps(steps: dict[tuple[Any, ...], list[sqlite3.Row]]) -> None:
    for key, history in steps.items():
        ended = [row for row in history if row["finished_at"] is not None]
        assert len(ended) <= 1, f"I4 {key}: written again after its end"
        assert not ended or ended[0] is history[-1], f"I4 {key}: changed after its end"
        if history[0]["kind"] in ("sleep", "within"):
            times = {row["wake_at"] for row in history if row["wake_at"] is not None}
            assert len(times) <= 1, f"I9 {key}: its time changed: {times}"
        attempts = [row["attempt"] for row in history]
        assert attempts == sorted(attempts), f"G6 {key}: attempts went back: {attempts}"


def _check_writers(site: Site) -> None:
    """Each step version was written under the epoch that its execution had at that moment."""
    epochs: defaultdict[str, list[int]] = defaultdict(list)
    # A cancel ends open steps without being their owner.
    for row in site.rows("SELECT execution_id, epoch FROM test_steps WHERE status <> 'cancelled' ORDER BY n"):
        epochs[row["execution_id"]].append(row["epoch"])
    for id, history in epochs.items():
        assert history == sorted(history), f"I3 {id}: a stale epoch wrote: {history}"


def _check_values(site: Site, steps: dict[tuple[Any, ...], list[sqlite3.Row]]) -> None:
    """What is recorded was made by a body, and every replay saw just that."""
    made: defaultdict[tuple[str, str], set[tuple[int, object]]] = defaultdict(set)
    shown: defaultdict[tuple[str, str], set[object]] = defaultdict(set)
    for line in site.ledger():
        if line.what == "end":
            made[line.place].add((line.attempt, line.more["value"]))
        elif line.what == "seen":
            shown[line.execution, line.more["of"]].add(line.more["value"])
    for (execution, _, path), history in steps.items():
        row, place = history[-1], (execution, path)
        if row["kind"] == "run" and row["status"] == "completed":
            recorded = json.loads(row["output"])
            assert (row["attempt"], recorded) in made[place], f"{place}: no body made {recorded}: {made[place]}"
            assert shown.get(place, set()) <= {recorded}, f"G2 {place}: {recorded} is recorded, {shown[place]} was seen"
    for place, different in shown.items():
        assert len(different) == 1, f"G2 {place}: replays saw {different}"


def _check_bodies(site: Site, steps: dict[tuple[Any, ...], list[sqlite3.Row]]) -> None:
    """No body begins when its step or its attempt is over, or under an epoch that is over."""
    begins: defaultdict[str, list[Line]] = defaultdict(list)
    for line in site.ledger():
        if line.what == "begin":
            begins[line.execution].append(line)
    for (execution, _, path), history in steps.items():
        row = history[-1]
        if row["kind"] == "run" and row["status"] in ("completed", "failed"):
            late = [line for line in begins[execution] if line.path == path and line.at > row["finished_at"]]
            assert not late, f"I5 {execution} {path}: began {late} after its end at {row['finished_at']}"
    for id, lines in begins.items():
        in_time = [line.epoch for line in sorted(lines, key=lambda line: line.at)]
        assert in_time == sorted(in_time), f"G4 {id}: a body began under an old epoch: {in_time}"
    for execution, path, attempt, ended_at in site.rows(
        "SELECT execution_id, path, attempt, finished_at FROM attempts"
    ):
        again = [
            line for line in begins[execution] if line.path == path and line.attempt <= attempt and line.at > ended_at
        ]
        assert not again, f"G6 {execution} {path}: attempt {attempt} was over, but {again}"
