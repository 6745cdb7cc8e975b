"""Events and children on the command line."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Call, Spawn

FAMILY = """
import asyncio
from stepwell import App, Step

app = App("family")


@app.workflow
async def child(step: Step) -> object:
    return await step.listen("wait-for-payment", event="payment")


@app.workflow
async def parent(step: Step) -> object:
    return await step.execute_workflow("work", child, id="the-child")
"""


@pytest.fixture
def family(project: Path) -> Path:
    (project / "family.py").write_text(FAMILY)
    (project / "stepwell.toml").write_text('app = "family:app"\n')
    return project


def test_an_event_reaches_a_listening_child_and_its_parent_goes_on(family: Path, call: Call, spawn: Spawn) -> None:
    worker = spawn("worker")
    parent = call("trigger", "parent").out.strip()
    following = spawn("executions", "watch", parent)
    following.out_until("listening")

    shown = call("executions", "describe", parent)
    assert "work" in shown.out
    assert "Children (1):" in shown.out
    assert "the-child" in shown.out
    child = call("executions", "describe", "the-child")
    assert "waits for event 'payment'" in child.out
    assert f"parent    {parent}" in child.out

    sent = call("executions", "send-event", "the-child", "payment", "id=p-1", "cents:=995", "--id", "once")
    assert (sent.code, sent.out) == (0, "")
    assert "sent 'payment'" in sent.err
    assert call("executions", "result", parent, "--timeout", "10s").json == {"id": "p-1", "cents": 995}

    late = call("executions", "send-event", "the-child", "payment")
    assert late.code == 4
    assert "it is completed" in late.err
    assert call("executions", "send-event", "nobody", "payment").code == 3
    wrong = call("executions", "send-event", parent, "payment", "{not json")
    assert (wrong.code, wrong.err.partition(":")[2].startswith(" PAYLOAD is not JSON")) == (2, True)
    worker.signal(signal.SIGTERM)
    assert worker.end().code == 0
