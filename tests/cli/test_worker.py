from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Call, Spawn

BLOCKED = """
import time
from stepwell import App, Step

app = App("blocked")


@app.workflow
async def stuck(step: Step) -> None:
    print("stuck now", flush=True)
    time.sleep(60)
"""


def test_start_names_database_worker_and_workflows(spawn: Spawn, project: Path) -> None:
    process = spawn("worker")

    said = process.err_until(" runs ")
    process.signal(signal.SIGTERM)

    assert f"sqlite:///{project}/.stepwell/stepwell.db" in said
    assert "order, failing, waiting, saga, stubborn, slow" in said
    assert process.end()[:2] == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_bodies_end(call: Call, spawn: Spawn, number: signal.Signals) -> None:
    process = spawn("worker")
    process.err_until(" runs ")
    call("trigger", "slow", "1.5", "--id", "a")
    wait_for_status(call, "a", "running")

    process.signal(number)

    answer = process.end()
    assert answer.code == 0
    assert "a second signal leaves at once" in answer.err
    info = call("executions", "describe", "a", "--json").json
    assert info["steps"][0]["status"] == "completed"
    assert info["status"] in ("queued", "completed")


def test_bodies_that_do_not_end_in_time_are_given_back(call: Call, spawn: Spawn) -> None:
    process = spawn("worker", "--drain-timeout", "0.2")
    process.err_until(" runs ")
    call("trigger", "stubborn", "--id", "a")
    wait_for_status(call, "a", "running")

    process.signal(signal.SIGTERM)

    assert process.end().code == 0
    assert call("executions", "describe", "a", "--json").json["status"] == "queued"


def test_second_signal_leaves_at_once_even_when_the_loop_is_blocked(call: Call, spawn: Spawn, project: Path) -> None:
    (project / "blocked.py").write_text(BLOCKED)
    process = spawn("worker", "--app", "blocked:app")
    process.err_until(" runs ")
    call("--app", "blocked:app", "trigger", "stuck")
    process.out_until("stuck now")

    process.signal(signal.SIGTERM)
    process.err_until("a second signal leaves at once")
    process.signal(signal.SIGINT)

    assert process.end().code == 130


def test_worker_ends_with_the_process_that_it_belongs_to(spawn: Spawn) -> None:
    process = spawn("worker", "--parent", str(os.getpid() + 1))

    assert process.end().code == 0


def test_app_without_workflows_is_refused(call: Call, project: Path) -> None:
    (project / "empty.py").write_text("from stepwell import App\napp = App('empty')")

    answer = call("worker", "--app", "empty:app")

    assert answer.code == 2
    assert "App 'empty' has no workflows." in answer.err


def wait_for_status(call: Call, id: str, status: str) -> None:
    while call("executions", "describe", id, "--json").json["status"] != status:
        pass
