"""Stored times over restarts: backoff, deadlines, and the number of an attempt that was cut."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.harness import Site, check
from tests.acceptance.programs import patience

US = 1_000_000


@pytest.mark.guarantee("G6")
def test_backoff_goes_on_over_kills(site: Site) -> None:
    """One backoff is waited for in memory, another is parked; each worker dies in the middle of it."""

    async def fill() -> None:
        await patience.backing_off.trigger_many([1.5, 5.2], ids=["short", "long"])

    site.prepare(patience.app, fill)
    worker = site.start("patience")
    for attempt in (1, 2):
        site.until(lambda attempt=attempt: retrying(site, "short") == attempt, "the backoff")
        worker.kill()
        worker = site.start_worker("patience")
        site.until(lambda attempt=attempt: len(site.lines("begin", "short")) == attempt + 1, "the next attempt", 5)
    site.until(lambda: retrying(site, "long") == 2, "the second backoff of the long one")
    worker.kill()
    site.start_worker("patience")
    site.await_all_ended()

    check(site)
    for id in ("short", "long"):
        assert [line.attempt for line in site.lines("begin", id)] == [1, 2, 3]
        stored = site.rows(
            "SELECT attempt, wake_at FROM test_steps WHERE execution_id = ? AND status = 'retrying' ORDER BY n", id
        )
        assert [row["attempt"] for row in stored] == [1, 2], "a time was written twice"
        for row, line in zip(stored, site.lines("begin", id)[1:], strict=True):
            assert 0 <= line.at - row["wake_at"] < US, (
                f"{id}: attempt {line.attempt} {line.at - row['wake_at']} us late"
            )
        assert [row["attempt"] for row in site.rows("SELECT attempt FROM attempts WHERE execution_id = ?", id)] == [
            1,
            2,
        ]


@pytest.mark.guarantee("G6")
def test_the_backoff_that_ended_while_no_worker_lived_is_over(site: Site) -> None:
    async def fill() -> None:
        await patience.backing_off.trigger(1.0, id="short")

    site.prepare(patience.app, fill)
    worker = site.start("patience")
    site.until(lambda: retrying(site, "short") == 1, "the backoff")
    worker.kill()
    [row] = site.rows("SELECT wake_at FROM steps WHERE status = 'retrying'")
    site.until(lambda: now(site) > row["wake_at"], "its end")

    worker = site.start_worker("patience")
    started_at = site.lines("running")[-1].at
    line = site.await_line(lambda line: line.what == "begin" and line.attempt == 2, "the next attempt")

    assert line.at - started_at < 500_000
    site.await_all_ended()
    check(site)


@pytest.mark.guarantee("G6")
def test_the_timeout_of_an_execution_counts_over_restarts(site: Site) -> None:
    async def fill() -> None:
        await patience.limited.trigger(1, id="while-running", timeout=2)
        await patience.limited.trigger(2, id="while-dead", timeout=1)

    site.prepare(patience.app, fill)
    worker = site.start("patience")
    site.until(lambda: len(site.lines("begin")) == 2, "both to run")
    [one, two] = [
        site.value("SELECT deadline_at FROM executions WHERE id = ?", id) for id in ("while-running", "while-dead")
    ]
    worker.kill()
    site.until(lambda: now(site) > two, "the first deadline")
    worker = site.start_worker("patience")
    site.until(lambda: site.living() == 1, "the one whose time is over to fail")
    worker.kill()
    site.start_worker("patience")
    site.await_all_ended()

    check(site)
    for id, deadline in (("while-running", one), ("while-dead", two)):
        row = site.execution(id)
        assert row["status"] == "failed"
        assert json.loads(row["error"])["type"] == "stepwell.errors.ExecutionTimeoutError"
        assert (
            len(
                {
                    each["deadline_at"]
                    for each in site.rows(
                        "SELECT deadline_at FROM test_executions WHERE id = ? AND deadline_at IS NOT NULL", id
                    )
                }
            )
            == 1
        )
        assert site.value("SELECT finished_at FROM executions WHERE id = ?", id) >= deadline
    assert site.value("SELECT finished_at FROM executions WHERE id = 'while-running'") - one < 300_000
    assert len(site.lines("begin", "while-dead")) == 1, "no body begins when the time is over"
    assert not site.lines("begin", path="never")
    assert not site.rows("SELECT * FROM steps WHERE finished_at IS NULL")


@pytest.mark.guarantee("G6")
def test_a_body_that_a_crash_cut_is_entered_again_as_the_same_attempt(site: Site) -> None:
    async def fill() -> None:
        await patience.interrupted.trigger(1, id="i")

    site.prepare(patience.app, fill)
    worker = site.start("patience")
    site.until(lambda: len(site.lines("begin")) == 2, "the second attempt")
    worker.kill()
    site.start_worker("patience")
    site.await_all_ended()

    check(site)
    assert [line.attempt for line in site.lines("begin")] == [1, 2, 2]
    assert site.counts() == {"completed": 1}, "a cut attempt does not use up a try"
    assert [row["attempt"] for row in site.rows("SELECT attempt FROM attempts")] == [1]


def retrying(site: Site, id: str) -> int:
    rows = site.rows("SELECT attempt FROM steps WHERE execution_id = ? AND status = 'retrying'", id)
    return rows[0]["attempt"] if rows else 0


def now(site: Site) -> int:
    return site.value("SELECT CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)")
