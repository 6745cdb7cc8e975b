"""An example as a user has it: a folder of its own, and real processes that work there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from stepwell import App, StepInfo
from tests.acceptance.harness import ROOT, Process

EXAMPLES: Final = ROOT / "examples"
LOOK_SECONDS: Final = 0.005
PATIENCE_SECONDS: Final = 15.0


class Mark(NamedTuple):
    """A moment: which steps were finished, as `execution path`, and how many bodies had begun."""

    file: str
    finished: set[str]
    lines: int


class Project:
    """A copy of an example's folder, and the processes that work there."""

    def __init__(self, name: str, folder: Path) -> None:
        shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns(".stepwell", "__pycache__"))
        self.folder = folder
        self.database = folder / ".stepwell" / "stepwell.db"
        self.app = App("onlooker", database=f"sqlite:///{self.database}")
        self._workers: list[Process] = []
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    # Processes

    def start_worker(self, **environment: object) -> Process:
        """Start `stepwell worker`; what it says is shown when the test fails."""
        popen = subprocess.Popen(
            [sys.executable, "-m", "stepwell", "worker"],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**self._environment, **{name: str(value) for name, value in environment.items()}},
        )
        self._workers.append(Process(popen, "worker"))
        return self._workers[-1]

    async def call(self, command: str, **changes: object) -> str:
        """Call the command line as the README does, with other values for these fields; what it prints."""
        words = [word for word in self.words(command) if re.split(":?=", word)[0] not in changes]
        words += [f"{field}:={json.dumps(value)}" for field, value in changes.items()]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "stepwell", *words, cwd=self.folder, env=self._environment, stdout=subprocess.PIPE
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, words
        return said.decode().strip()

    async def run(self, *command: str) -> None:
        """Run a program of the example."""
        process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=self.folder, env=self._environment)
        assert await process.wait() == 0, command

    def words(self, command: str) -> list[str]:
        """The arguments of a command as the README first shows it."""
        return next(shlex.split(line)[1:] for line in commands(self.folder) if f" {command} " in line)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def show_logs(self) -> str:
        return "\n".join(f"--- worker {worker.pid} exit {worker.exit_code}\n{worker.log}" for worker in self._workers)

    # What happened

    def lines(self, file: str) -> list[str]:
        """What bodies have written, each line on disk before its body went on."""
        path = self.folder / ".stepwell" / file
        return path.read_text().splitlines() if path.exists() else []

    async def steps(self, id: str) -> dict[str, StepInfo]:
        return {step.path: step for step in await self.app.get_execution(id).steps()}

    async def await_step(self, id: str, path: str, status: str) -> StepInfo:
        """Wait until a step has this status."""

        async def look() -> StepInfo | None:
            step = (await self.steps(id)).get(path)
            return step if step is not None and step.status == status else None

        return await until(look, f"{path} of {id} to be {status}")

    async def await_line(self, file: str, line: str) -> None:
        """Wait until a body has written this."""

        async def look() -> bool:
            return line in self.lines(file)

        await until(look, f"{line!r} in {file}")

    async def await_rows(self, table: str, count: int) -> None:
        """Wait until a table has so many rows."""

        async def look() -> bool:
            there = self.rows("SELECT * FROM sqlite_master WHERE name = ?", table)
            return bool(there) and self.rows(f"SELECT COUNT(*) FROM {table}") >= [(count,)]

        await until(look, f"{count} rows in {table}")

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """What stands in the database, read by somebody who cannot write."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return connection.execute(sql, parameters).fetchall()

    async def mark(self, file: str) -> Mark:
        """Where things are."""
        finished = {
            f"{info.id} {path}"
            for info in (await self.app.list_executions(limit=1000)).executions
            for path, step in (await self.steps(info.id)).items()
            if step.status in ("completed", "failed")
        }
        return Mark(file, finished, len(self.lines(file)))

    def begun_again(self, mark: Mark) -> set[str]:
        """The steps that were finished at the mark, and whose body has begun after it."""
        return mark.finished.intersection(self.lines(mark.file)[mark.lines :])

    async def result(self, id: str) -> Any:
        return await self.app.get_execution(id).result(PATIENCE_SECONDS)


async def until(look: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Look again and again until there is something true."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (found := await look()):  # noqa: ASYNC110 - other processes are at work
                await asyncio.sleep(LOOK_SECONDS)
            return found
    except TimeoutError:
        raise AssertionError(f"Waited {PATIENCE_SECONDS:g} s for {what}.") from None


def commands(folder: Path) -> list[str]:
    """The calls of stepwell in a README."""
    lines = re.findall(r"^\$ .*/(stepwell .*)$", (folder / "README.md").read_text(), re.MULTILINE)
    return [line.removesuffix(" &") for line in lines]
