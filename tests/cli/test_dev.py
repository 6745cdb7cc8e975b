from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Call, Spawn

pytestmark = pytest.mark.slow

VERSION = """
from stepwell import App, Step

app = App("shop")


@app.workflow
async def order(step: Step) -> str:
    await step.sleep("pause", "{pause}")
    return "{answer}"
"""


def save(project: Path, answer: str, pause: str = "2 seconds") -> None:
    (project / "shop.py").write_text(VERSION.format(answer=answer, pause=pause))


def test_executions_go_on_with_the_new_code(call: Call, spawn: Spawn, project: Path) -> None:
    save(project, "old")
    process = spawn("dev")
    process.err_until(" runs ")
    call("trigger", "order", "--id", "a")

    save(project, "new")
    said = process.err_until(" runs ")

    assert "changed: shop.py; starting again" in said
    assert call("executions", "result", "a", "--timeout", "10").json == "new"
    process.signal(signal.SIGINT)
    assert process.end().code == 0


def test_broken_code_is_shown_and_the_next_save_tries_again(spawn: Spawn, project: Path) -> None:
    save(project, "old")
    process = spawn("dev")
    process.err_until(" runs ")

    (project / "shop.py").write_text("def (:")
    assert "SyntaxError: invalid syntax (shop.py, line 1)" in process.err_until("waiting for a change")
    save(project, "mended")
    process.err_until(" runs ")

    process.signal(signal.SIGTERM)
    assert process.end().code == 0


def test_child_does_not_outlive_a_parent_that_is_killed(call: Call, spawn: Spawn, project: Path) -> None:
    save(project, "old")
    process = spawn("dev")
    process.err_until(" runs ")

    process.signal(signal.SIGKILL)

    # The child holds the other end of the pipe: it closes when the child has ended.
    assert "stopped" in process.end().err
