"""A project to call the command line in, in this process or as one of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

import pytest

from stepwell.cli import main

SHOP = """
import asyncio
import time
from dataclasses import dataclass
from stepwell import App, Step, SyncStep

app = App("shop")


@dataclass
class Order:
    id: str
    total: int


async def charge(order: Order) -> dict[str, int]:
    print("charging")
    return {"charged": order.total}


@app.workflow
async def order(step: Step, order: Order) -> str:
    await step.run("charge", charge, order)

    async def deliver() -> str:
        @step.do("pack")
        async def pack() -> None: ...

        await pack()
        return f"parcel {order.id}"

    return await step.run("deliver", deliver)


@app.workflow
async def failing(step: Step) -> None:
    async def explode() -> None:
        raise ValueError("no \\x1b[31mluck")

    await step.run("explode", explode, retries=1, retry_delay=0)


@app.workflow
async def waiting(step: Step) -> None:
    await step.sleep("pause", "1 hour")


async def forget(charged: dict[str, int]) -> None:
    if charged["charged"] > 100:
        raise ValueError("too much to forget")


@app.workflow(retries=0)
async def saga(step: Step, order: Order) -> None:
    await step.run("charge", charge, order, undo=forget)
    if order.id == "fails":
        step.fail("sold out")
    await step.sleep("wait", "1 hour")


@app.workflow
async def stubborn(step: Step) -> None:
    await step.run("hang", asyncio.sleep, 60)


@app.workflow
def slow(step: SyncStep, seconds: float) -> str:
    step.run("nap", time.sleep, seconds)
    return "rested"
"""


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which must be one JSON document and nothing else."""
        return json.loads(self.out)


Call: TypeAlias = Callable[..., Answer]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: an app and its configuration."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "stepwell.toml").write_text('app = "shop:app"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for variable in ("STEPWELL_APP", "STEPWELL_DATABASE", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def call(project: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command line in this process."""

    def call(*args: str) -> Answer:
        with pytest.raises(SystemExit) as ended:
            main(args)
        assert isinstance(ended.value.code, int)
        said = capsys.readouterr()
        return Answer(ended.value.code, said.out, said.err)

    return call


class Process:
    """The command line in a process of its own."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "stepwell", *args],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def err_until(self, text: str) -> str:
        """Read stderr up to the line that contains the text."""
        return _read_until(self.popen.stderr, text)

    def out_until(self, text: str) -> str:
        """Read stdout up to the line that contains the text."""
        return _read_until(self.popen.stdout, text)

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self) -> Answer:
        """Wait for the end; the rest of what it says."""
        out, err = self.popen.communicate(timeout=15)
        return Answer(self.popen.returncode, out, err)


def _read_until(stream: IO[str] | None, text: str) -> str:
    assert stream is not None
    read = ""
    for line in stream:
        read += line
        if text in line:
            return read
    raise AssertionError(f"{text!r} was not said: {read}")


Spawn: TypeAlias = Callable[..., Process]


@pytest.fixture
def spawn(project: Path) -> Iterator[Spawn]:
    """Start the command line in a process of its own; it is gone after the test."""
    started: list[Process] = []

    def spawn(*args: str) -> Process:
        started.append(Process(project, *args))
        return started[-1]

    yield spawn
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
        process.end()
