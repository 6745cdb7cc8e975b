"""Stored times over restarts: backoff, deadlines, and the number of an attempt that was cut."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.harness import Site, check
from tests.acceptance.programs import patience

US = 1_000_000


@pytest.mark.guarantee("G6")
@pytest.mark.parametrize("stays_in_memory", [5, 0.1], ids=["in memory", "parked"])
def test_backoff_goes_on_over_kills(site: Site, stays_in_memory: float) -> None:
    """Each worker dies while the execution waits for its next attempt."""

    async def fill() -> None:
        await patience.backing_off.trigger(1.2, id="b")

    site.prepare(patience.app, fill)
    worker = site.start("patience", STAYS_IN_MEMORY=stays_in_memory)
    for attempt in (1, 2):
        site.until(lambda attempt=attempt: waits_after(site, attempt, parked=stays_in_memory < 1), "the backoff")
        worker.kill()
        worker = site.start_worker("patience", STAYS_IN_MEMORY=stays_in_memory)
        site.until(lambda attempt=attempt: len(site.lines("begin")) == attempt + 1, "the next attempt", 5)
    site.await_all_ended()

    check(site)
    assert [line.attempt for line in site.lines("begin")] == [1, 2, 3]
    stored = site.rows("SELECT attempt, wake_at FROM test_steps WHERE status = 'retrying' ORDER BY n")
    assert [row["attempt"] for row in stored] == [1, 2], "a time was written twice"
    for row, line in zip(stored, site.lines("begin")[1:], strict=True):
        late = line.at - row["wake_at"]
        assert 0 <= late < US, f"attempt {line.attempt} began {late} us after its time"
    assert [row["attempt"] for row in site.rows("SELECT attempt FROM attempts")] == [1, 2]


@pytest.mark.guarantee("G6")
def test_the_backoff_that_ended_while_no_worker_lived_is_over(site: Site) -> None:
    async def fill() -> None:
        await patience.backing_off.trigger(0.7, id="b")

    site.prepare(patience.app, fill)
    worker = site.start("patience")
    site.until(lambda: waits_after(site, 1, parked=False), "the backoff")
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
        await patience.limited.trigger(1, id="while-running", timeout=3)
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
    site.until(lambda: site.living() <= 1, "the one whose time is over to fail")
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
    assert site.value("SELECT finished_at FROM executions WHERE id = 'while-running'") - one < US
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


def waits_after(site: Site, attempt: int, *, parked: bool) -> bool:
    """Whether this attempt has failed and the next one is waited for."""
    rows = site.rows(
        "SELECT e.owner FROM steps AS s JOIN executions AS e ON e.id = s.execution_id"
        " WHERE s.status = 'retrying' AND s.attempt = ?",
        attempt,
    )
    return bool(rows) and (rows[0]["owner"] is None) == parked


def now(site: Site) -> int:
    return site.value("SELECT CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)")
