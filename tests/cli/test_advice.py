"""`executions describe` says what to do about an execution that does not go on."""

from __future__ import annotations

import asyncio

import click

from stepwell import App, Step
from stepwell.cli.advice import advice
from stepwell.clock import from_us
from stepwell.testing import sandbox
from tests.cli.conftest import Call

RETRY = "next      stepwell executions retry a  (does again what failed, and keeps every other result)"
WORKER = "next      stepwell worker  (executes; one must run that knows 'waiting')"


def test_what_has_failed_can_be_tried_again(call: Call) -> None:
    call("run", "failing", "--id", "a")

    assert RETRY in call("executions", "describe", "a").out


def test_what_is_queued_wants_a_worker_and_what_is_paused_its_resume(call: Call) -> None:
    call("trigger", "waiting", "--id", "a")

    queued = call("executions", "describe", "a").out
    call("executions", "pause", "a")
    paused = call("executions", "describe", "a").out

    assert "waits for a worker\n" in queued
    assert WORKER in queued
    assert "next      stepwell executions resume a  (lets it go on)" in paused


def test_what_is_delayed_or_has_completed_needs_nothing(call: Call) -> None:
    call("trigger", "waiting", "--id", "later", "--delay", "1 hour")
    call("run", "order", "id=A", "total:=3", "--id", "done")

    assert "  next " not in call("executions", "describe", "later").out
    assert "  next " not in call("executions", "describe", "done").out


def test_there_is_none_of_the_status(call: Call) -> None:
    call("trigger", "waiting")

    answer = call("executions", "describe", "latest:failed")

    assert (answer.code, answer.err) == (3, "error: There is no failed execution in this database.\n")


async def test_waits_are_named_with_what_ends_them() -> None:
    app = App("waits")

    def fail() -> None:
        raise ConnectionError

    @app.workflow
    async def child(step: Step) -> None:
        await step.listen("paid", event="card payment")

    @app.workflow
    async def parent(step: Step) -> None:
        await asyncio.gather(
            step.run("charge", fail, retry_delay="1 hour", max_delay="1 hour"),
            step.sleep("pause", "3 hours"),
            step.execute_workflow("child", child, id="c"),
        )

    async with sandbox(app) as tester:
        execution = await parent.trigger(id="p")
        await tester.settle()
        now = from_us(tester.clock.now())
        told = advice(await execution.info(), await execution.steps(), now)
        of_child = advice(await app.get_execution("c").info(), await app.get_execution("c").steps(), now)

    assert [click.unstyle(line) for line in told] == [
        "stepwell executions wake p  (tries 'charge' again now, and 1 more)",
        "stepwell executions describe c  ('child' waits for its end)",
    ]
    assert [click.unstyle(line) for line in of_child] == [
        "stepwell executions send-event c 'card payment' …  ('paid' waits for it)"
    ]
