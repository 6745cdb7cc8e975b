"""A body that blocks the event loop: the worker says which, and loses nothing."""

from __future__ import annotations

import signal
import time

import pytest

from stepwell import Workflow
from tests.acceptance.harness import Site, check
from tests.acceptance.programs import blocked


def test_a_loop_blocked_for_8_s_is_named_and_keeps_its_lease(site: Site) -> None:
    async def fill() -> None:
        await blocked.blocking.trigger(8.0, id="b")

    site.prepare(blocked.app, fill)
    worker = site.start("blocked")
    site.await_line(lambda line: line.what == "begin" and line.path == "block", "the loop to be blocked")
    watcher = site.start_worker("drain")
    site.await_all_ended(12)

    assert [line.pid for line in site.lines("begin", path="block")] == [worker.pid]
    check(site)
    assert "Step 'block' of execution b has blocked the event loop" in worker.log
    assert "block_the_loop" in worker.log, "the stack says who"
    assert site.value("SELECT MAX(epoch) FROM executions") == 1
    assert "has not renewed" not in watcher.log


def test_a_block_between_two_renewals_is_named_too(site: Site) -> None:
    """The warning comes after so many seconds of silence; it must not depend on when the lease happens to be due."""

    async def fill() -> None:
        await blocked.blocking.trigger(1.6, id="b")

    site.prepare(blocked.app, fill)
    worker = site.start("blocked", AFTER_RENEWAL=0.3, LEASE_SECONDS=3, FASTER=5)
    site.await_all_ended()

    assert "block_the_loop" in worker.log


@pytest.mark.parametrize(
    ("workflow", "name"),
    [
        (blocked.blocking, "Step 'block' of execution b has blocked"),
        (blocked.blocking_code, "The workflow code of execution b (blocking_code) has blocked"),
        (blocked.blocking_task, "tep 'block' of execution b"),
    ],
    ids=["body", "workflow-code", "task-of-a-body"],
)
def test_who_blocks_is_named_once_while_it_still_blocks(site: Site, workflow: Workflow[float, int], name: str) -> None:
    async def fill() -> None:
        await workflow.trigger(3.0, id="b")

    site.prepare(blocked.app, fill)
    worker = site.start("blocked")
    site.until(lambda: name in worker.log, "the warning")
    assert site.living() == 1, "it still blocks"
    site.await_all_ended()

    assert worker.log.count("has blocked the event loop") == 1
    assert "time.sleep(seconds)" in worker.log, "the stack shows the line"


def test_a_short_block_is_not_worth_a_word(site: Site) -> None:
    async def fill() -> None:
        await blocked.blocking.trigger(0.7, id="b")

    site.prepare(blocked.app, fill)
    worker = site.start("blocked")
    site.await_all_ended()

    assert "has blocked the event loop" not in worker.log


def test_a_process_that_was_stopped_blames_nobody(site: Site) -> None:
    async def fill() -> None:
        await blocked.blocking.trigger(0.0, id="b")

    site.prepare(blocked.app, fill)
    worker = site.start_worker("blocked")
    site.await_all_ended()
    worker.signal(signal.SIGSTOP)
    time.sleep(2.5)
    worker.signal(signal.SIGCONT)
    time.sleep(1)

    assert "has blocked the event loop" not in worker.log


def test_a_loop_that_is_stuck_for_too_long_loses_its_lease(site: Site) -> None:
    async def fill() -> None:
        await blocked.blocking_once.trigger(6.0, id="b")

    site.prepare(blocked.app, fill)
    stuck = site.start("blocked", LEASE_SECONDS=0.6, STUCK_SECONDS=2)
    site.await_line(lambda line: line.what == "begin", "the loop to be blocked")
    other = site.start_worker("blocked", LEASE_SECONDS=0.6)
    site.await_all_ended()

    assert [line.pid for line in site.lines("begin", path="block")] == [stuck.pid, other.pid]
    assert stuck.log.count("the lease is not renewed any more") == 1
    assert stuck.log.count("time.sleep(seconds)") == 2, "the stack stands below the warning, and below this"
    check(site)


def test_a_lease_shorter_than_the_block_is_kept_too(site: Site) -> None:
    async def fill() -> None:
        await blocked.blocking.trigger(1.5, id="b")

    site.prepare(blocked.app, fill)
    worker = site.start("blocked", LEASE_SECONDS=0.6)
    site.await_line(lambda line: line.what == "begin" and line.path == "block", "the loop to be blocked")
    site.start_worker("blocked", LEASE_SECONDS=0.6)
    site.await_all_ended()

    assert [line.pid for line in site.lines("begin", path="block")] == [worker.pid]
    check(site)
