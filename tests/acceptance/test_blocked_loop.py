"""A body that blocks the event loop: the worker says which, and loses nothing."""

from __future__ import annotations

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
    assert "event loop has not turned" in worker.log
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
