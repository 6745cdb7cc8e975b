"""Several workers on one file: they share work, take over from the dead, and cannot write what was taken from them."""

from __future__ import annotations

import json
import signal
import time

import pytest

from stepwell import Execution
from tests.acceptance.harness import Process, Site, check, stop_outside_a_transaction
from tests.acceptance.programs import share

TAKEOVER_SECONDS = 1.5


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G4")
@pytest.mark.parametrize("count", [2, 4])
def test_the_living_take_over_from_the_dead(site: Site, count: int) -> None:
    site.prepare(share.app, trigger(40))
    workers = [site.start("share", WAIT_FOR_GO=1, CONCURRENCY=-(-40 // count)) for _ in range(count)]
    site.until(lambda: len(site.lines("ready")) == count, "the workers to be ready")
    for worker in workers:
        worker.go()
    site.until(lambda: all(ended_by(site, worker) >= 5 for worker in workers), "all workers to work")

    victim = workers[0]
    dead_id = worker_of(site, victim)
    victim.kill()
    killed_at = time.monotonic()
    site.until(lambda: not owned_by(site, dead_id), "the others to take over")
    took = time.monotonic() - killed_at
    site.await_all_ended()

    assert took < TAKEOVER_SECONDS
    assert site.counts() == {"completed": 40}
    check(site)
    check_outputs(site)
    assert site.value("SELECT MAX(crashes + crashed) FROM test_executions") == 1


@pytest.mark.guarantee("G1")
def test_a_lone_worker_that_is_restarted_goes_on_at_once(site: Site) -> None:
    site.prepare(share.app, trigger(10))
    worker, spare = site.start("share"), site.start("share", WAIT_FOR_GO=1)
    site.until(lambda: ended_by(site, worker) >= 5, "work")
    site.until(lambda: site.lines("ready"), "the spare to be ready")

    worker.kill()
    killed_at = time.monotonic()
    spare.go()
    site.await_line(lambda line: line.pid == spare.pid and line.what == "begin", "the spare to work")

    assert time.monotonic() - killed_at < 1.0
    site.await_all_ended()
    check(site)


@pytest.mark.guarantee("G4")
@pytest.mark.parametrize("round", [1, 2])
def test_a_zombie_writes_nothing_and_starts_anew(site: Site, round: int) -> None:
    site.prepare(share.app, trigger(12))
    zombie = site.start_worker("share", LEASE_SECONDS=1, PAUSE=0.1, CONCURRENCY=12)
    old_id = worker_of(site, zombie)
    site.until(lambda: ended_by(site, zombie) >= 10 + 3 * round, "the zombie to work")
    stop_outside_a_transaction(site, zombie)
    stopped_at = site.value("SELECT MAX(n) FROM test_executions")
    owned = owned_by(site, old_id)
    assert owned
    heir = site.start_worker("share", LEASE_SECONDS=1, PAUSE=0.1, CONCURRENCY=6)
    site.until(lambda: not owned_by(site, old_id), "the heir to take over")
    site.await_line(lambda line: line.pid == heir.pid and line.what == "begin", "the heir to work")
    taken_at = site.value("SELECT MAX(n) FROM test_executions")

    zombie.signal(signal.SIGCONT)

    site.until(lambda: worker_of(site, zombie) not in (None, old_id), "the zombie to register anew")
    site.as_client(share.app, trigger(10, prefix="late"))
    site.await_all_ended()
    assert site.counts() == {"completed": 22}
    check(site)
    check_outputs(site)
    late_owners = {row["owner"] for row in site.rows("SELECT owner FROM test_executions WHERE n > ?", taken_at)}
    assert old_id not in late_owners, "G4: the zombie wrote"
    new_id = worker_of(site, zombie)
    assert new_id in late_owners, "the zombie does nothing useful any more"
    assert site.value("SELECT MAX(crashes + crashed) FROM test_executions WHERE n > ?", stopped_at) == 0, "no crash"
    assert "has lost its lease" in zombie.log


@pytest.mark.guarantee("G4")
def test_a_zombie_starts_no_body_whose_time_came_while_it_was_stopped(site: Site) -> None:
    async def fill() -> list[Execution[int]]:
        return await share.nap_then_act.trigger_many([1.0] * 20, ids=[f"n-{n}" for n in range(20)])

    site.prepare(share.app, fill)
    zombie = site.start_worker("share", LEASE_SECONDS=0.5, PAUSE=0.1)
    site.until(lambda: site.value("SELECT COUNT(*) FROM steps WHERE path = 'nap'") == 20, "all to sleep")
    old_id = worker_of(site, zombie)
    stop_outside_a_transaction(site, zombie)
    heir = site.start_worker("share", LEASE_SECONDS=5, PAUSE=0.1)
    site.until(lambda: not owned_by(site, old_id), "the heir to take over")
    site.until(lambda: ended_by(site, heir) >= 5, "the heir to work")

    zombie.signal(signal.SIGCONT)

    site.await_all_ended()
    site.until(lambda: worker_of(site, zombie) not in (None, old_id), "the zombie to register anew")
    check(site)
    assert ended_by(site, zombie) == 0, "it began bodies of executions that it had lost"


@pytest.mark.guarantee("G4")
def test_a_worker_that_was_stopped_for_less_than_its_lease_goes_on(site: Site) -> None:
    site.prepare(share.app, trigger(6))
    worker = site.start_worker("share", PAUSE=0.05)
    old_id = worker_of(site, worker)
    site.start_worker("share", CONCURRENCY=1)
    site.until(lambda: ended_by(site, worker) >= 5, "work")

    stop_outside_a_transaction(site, worker)
    time.sleep(1.2)  # longer than the heir needs to notice a death
    worker.signal(signal.SIGCONT)
    site.await_all_ended()

    assert worker_of(site, worker) == old_id
    assert site.value("SELECT MAX(epoch) FROM executions") == 1
    check(site)


# ---------------------------------------------------------------------------------------------------------- helpers


def trigger(count: int, prefix: str = "s"):
    async def fill() -> list[Execution[int]]:
        return await share.share.trigger_many(range(count), ids=[f"{prefix}-{n}" for n in range(count)])

    return fill


def ended_by(site: Site, worker: Process) -> int:
    return sum(line.pid == worker.pid for line in site.lines("end"))


def worker_of(site: Site, worker: Process) -> str | None:
    rows = site.rows("SELECT id FROM workers WHERE pid = ?", worker.pid)
    return rows[0]["id"] if rows else None


def owned_by(site: Site, worker_id: str | None) -> list[str]:
    return [row["id"] for row in site.rows("SELECT id FROM executions WHERE owner = ?", worker_id)]


def check_outputs(site: Site) -> None:
    for row in site.rows("SELECT id, output FROM stepwell_executions"):
        steps = site.rows("SELECT output FROM steps WHERE execution_id = ? AND kind = 'run'", row["id"])
        assert len(steps) == 10
        assert json.loads(row["output"]) == sum(json.loads(step["output"]) for step in steps)
