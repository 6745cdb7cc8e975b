"""Processes for step bodies: none survives its worker, however that ends, and signals of a terminal do not reach them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.harness import ROOT, Line, Site
from tests.acceptance.programs import far


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def children(pid: int) -> Iterator[int]:
    """The living children of a process."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and not is_gone(int(folder.name)):
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) == pid:
                yield int(folder.name)


def await_begin(site: Site, count: int = 1) -> list[Line]:
    site.until(lambda: len(site.lines("begin")) == count, f"{count} bodies to begin")
    return site.lines("begin")


def everything_of(line: Line) -> list[int]:
    return [line.pid, line.more["helper"]]


@pytest.mark.guarantee("G3")
def test_kill_9_of_the_worker_ends_busy_processes_and_all_that_they_started(site: Site) -> None:
    async def fill() -> None:
        await far.spinning_once.trigger(id="a")
        await far.spinning_once.trigger(id="b")

    site.prepare(far.app, fill)
    worker = site.start_worker("far")
    lines = await_begin(site, 2)
    pids = [pid for line in lines for pid in everything_of(line)]
    assert not any(map(is_gone, pids))

    worker.kill()

    site.until(lambda: all(map(is_gone, pids)), "the processes to end", 3)
    site.start_worker("far")
    site.await_all_ended()
    assert {site.execution(id)["status"] for id in "ab"} == {"completed"}


def test_sigterm_lets_bodies_end_and_leaves_no_process(site: Site) -> None:
    async def fill() -> None:
        for n in range(3):
            await far.short.trigger(1.0, id=f"{n}")

    site.prepare(far.app, fill)
    worker = site.start_worker("far", GRACE=5)
    pids = [line.pid for line in await_begin(site, 3)]
    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert len(site.lines("end")) == 3
    assert site.value("SELECT COUNT(*) FROM steps WHERE status = 'completed'") == 3
    assert all(map(is_gone, pids))


def test_bodies_that_outlast_the_grace_are_killed_in_time(site: Site) -> None:
    async def fill() -> None:
        await far.spinning.trigger(id="a")
        await far.short.trigger(0.0, id="idle")

    site.prepare(far.app, fill)
    worker = site.start_worker("far", GRACE=0.5)
    site.until(lambda: site.living() == 1, "one to end")
    [spinning] = [line for line in await_begin(site, 2) if line.execution == "a"]
    pids = [*everything_of(spinning), *children(worker.pid)]
    asked_at = time.monotonic()
    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert time.monotonic() - asked_at < 1.5 + 0.5, "grace + 1 s, and something for a busy machine"
    assert all(map(is_gone, pids))
    assert site.execution("a")["status"] == "queued"


def test_signals_of_a_terminal_do_not_touch_a_body(site: Site) -> None:
    async def fill() -> None:
        await far.short.trigger(1.0, id="a")

    site.prepare(far.app, fill)
    worker = site.start_worker("far")
    [line] = await_begin(site)
    assert os.getpgid(line.pid) == line.pid != os.getpgid(worker.pid)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(line.pid, number)
    site.await_all_ended()

    assert site.execution("a")["status"] == "completed"
    assert [line.attempt for line in site.lines("end")] == [1]


def test_a_trigger_from_a_process_is_made_once_however_often_the_body_runs(site: Site) -> None:
    async def fill() -> None:
        await far.triggering.trigger(id="a")

    site.prepare(far.app, fill)
    site.start_worker("far")
    site.until(lambda: site.execution("a")["status"] == "completed", "the triggering one to end")
    site.await_all_ended()

    ids = {line.more["of"] for line in site.lines("begin", "a")}
    assert len(site.lines("begin", "a")) == 2
    assert len(ids) == 1
    assert site.value("SELECT COUNT(*) FROM executions") == 2


# ------------------------------------------------------------------------------------------------- the main program

SCRIPT = """
import os
from stepwell import App, Step

app = App("script", database="sqlite://")

class Pair:
    def __init__(self, one, other):
        self.one, self.other = one, other

def swap(pair):
    return [pair.other, pair.one, os.getpid()]

@app.workflow
async def flow(step: Step) -> list[int]:
    return await step.run("swap", swap, Pair(1, 2), executor="process", retries=3)

"""


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=15,
    )


@pytest.mark.parametrize("arguments", [["script.py"], ["-m", "script"], ["-O", "folder/../script.py"]])
def test_functions_and_classes_of_the_main_program_are_found(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "script.py").write_text(
        SCRIPT
        + "if __name__ == '__main__':\n    two, one, pid = app.execute(flow)\n    print(two, one, pid == os.getpid())"
    )

    done = run(*arguments, folder=tmp_path)

    assert (done.stdout, done.returncode) == ("2 1 False\n", 0), done.stderr


def test_a_main_program_without_a_guard_is_refused(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT + "app.execute(flow)")

    done = run("script.py", folder=tmp_path)

    assert done.returncode == 1
    assert "cannot be loaded in a process of their own" in done.stderr
    assert "if __name__ == '__main__'" in done.stderr
    assert "is tried again" not in done.stderr


@pytest.mark.parametrize("arguments", [["-c", SCRIPT + "app.execute(flow)"], ["-m", "package"]], ids=["-c", "package"])
def test_functions_of_a_main_program_that_is_no_module_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(SCRIPT + "app.execute(flow)")

    done = run(*arguments, folder=tmp_path)

    assert done.returncode == 1
    assert "TypeError" in done.stderr
    assert "the main program is not a module" in done.stderr
