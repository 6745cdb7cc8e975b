"""SIGTERM: running bodies end within the grace, the rest goes back, nothing is begun, and others continue."""

from __future__ import annotations

import signal
import time

import pytest

from tests.acceptance.harness import Site, check
from tests.acceptance.programs import drain

KINDS = ("ends_in_time", "ends_in_time_in_thread", "too_long", "too_long_in_thread", "sleeps")


def test_a_worker_that_is_asked_to_leave_ends_what_it_can_and_gives_back_the_rest(site: Site) -> None:
    site.prepare(drain.app, fill)
    worker = site.start_worker("drain", LONG=30, GRACE=1)
    site.until(lambda: len(site.lines("begin")) == 12 and site.counts().get("sleeping") == 3, "all to be under way")

    worker.signal(signal.SIGTERM)
    asked_at = time.monotonic()
    site.await_line(lambda line: line.what == "leaving", "the worker to hear")
    site.as_client(drain.app, fill_late)
    exit_code = worker.wait(5)
    took = time.monotonic() - asked_at

    assert exit_code == 0
    assert took < 2.0, f"the grace is 1 s; it took {took:.2f} s"
    assert {line.path for line in site.lines("end")} == {"first"}
    assert len(site.lines("end")) == 6, "bodies that end within the grace are kept"
    assert not site.lines("begin", path="second"), "nothing is begun any more"
    assert not site.lines("begin", "late"), "nothing is claimed any more"
    assert site.value("SELECT COUNT(*) FROM executions WHERE owner IS NOT NULL") == 0
    assert site.value("SELECT COUNT(*) FROM workers") == 0
    assert site.value("SELECT COUNT(*) FROM steps WHERE path = 'first' AND status = 'completed'") == 6
    check(site, all_ended=False)

    successor = site.start_worker("drain")
    site.await_all_ended()

    assert site.counts() == {"completed": 16}
    assert site.value("SELECT MAX(crashes + crashed) FROM test_executions") == 0, "leaving is no crash"
    assert {line.pid for line in site.lines("begin", path="first")} == {worker.pid, successor.pid}
    assert len(site.lines("begin", path="first")) == 7, "what was ended before is not done again"
    check(site)
    for line in site.lines("woke"):
        [wake_at] = site.rows(
            "SELECT DISTINCT wake_at FROM test_steps WHERE execution_id = ? AND path = 'nap' AND wake_at IS NOT NULL",
            line.execution,
        )
        assert line.at >= wake_at["wake_at"]


def test_an_idle_worker_leaves_at_once(site: Site) -> None:
    worker = site.start_worker("drain", GRACE=10)

    worker.signal(signal.SIGTERM)
    asked_at = time.monotonic()

    assert worker.wait(5) == 0
    assert time.monotonic() - asked_at < 0.7


def test_a_sleeper_does_not_keep_a_leaving_worker(site: Site) -> None:
    async def fill() -> None:
        await drain.sleeps.trigger(1, id="sleeper")

    site.prepare(drain.app, fill)
    worker = site.start_worker("drain", GRACE=10)
    site.until(lambda: site.counts().get("sleeping"), "it to sleep")

    worker.signal(signal.SIGTERM)
    asked_at = time.monotonic()

    assert worker.wait(5) == 0
    assert time.monotonic() - asked_at < 0.7
    site.start_worker("drain")
    site.await_all_ended()
    check(site)


def test_a_branch_that_starts_nothing_more_does_not_keep_a_leaving_worker(site: Site) -> None:
    """One branch is held at its next step; the worker leaves as soon as the body of the other one has ended."""

    async def fill() -> None:
        await drain.branches.trigger(1, id="b")

    site.prepare(drain.app, fill)
    worker = site.start_worker("drain", GRACE=5)
    site.until(lambda: len(site.lines("begin")) == 2, "both branches to run")

    worker.signal(signal.SIGTERM)
    asked_at = time.monotonic()

    assert worker.wait(8) == 0
    assert time.monotonic() - asked_at < 1.0
    assert len(site.lines("end")) == 2
    assert not site.lines("begin", path="next")
    site.start_worker("drain")
    site.await_all_ended()
    check(site)


@pytest.mark.timeout(30)
def test_rolling_restarts_lose_nothing(site: Site) -> None:
    """Workers one after the other, each asked to leave in the middle of the work; no execution pays for it."""
    site.prepare(drain.app, fill_many)
    worker, spare = site.start("drain"), site.start("drain", WAIT_FOR_GO=1)
    for _ in range(3):
        site.until(
            lambda pid=worker.pid: sum(line.pid == pid for line in site.lines("begin")) > 20, "the worker to work"
        )
        spare.go()
        worker.signal(signal.SIGTERM)
        assert worker.wait(5) == 0, worker.log
        worker, spare = spare, site.start("drain", WAIT_FOR_GO=1)
    site.await_all_ended()

    check(site)
    assert site.counts() == {"completed": 30}
    assert site.value("SELECT MAX(crashes + crashed) FROM test_executions") == 0
    assert not site.rows("SELECT * FROM attempts")
    assert len(site.lines("begin")) == 240, "every body was short enough for the grace"


async def fill() -> None:
    for kind in KINDS:
        await drain.app.workflows[kind].trigger_many([1, 2, 3], ids=[f"{kind}-{n}" for n in range(3)])


async def fill_late() -> None:
    await drain.ends_in_time.trigger(1, id="late")


async def fill_many() -> None:
    await drain.many.trigger_many(range(30), ids=[f"m-{n}" for n in range(30)])
