"""The disk is full for a while: nothing is lost or damaged, and the worker goes on when there is room again."""

from __future__ import annotations

import signal
import time

import pytest

from tests.acceptance.harness import Process, Site, check
from tests.acceptance.programs import full_disk

FILL, MAKE_ROOM = signal.SIGURG, signal.SIGWINCH


@pytest.fixture
def worker(site: Site) -> Process:
    """A worker in the middle of its work, with no room left."""
    site.prepare(full_disk.app, fill)
    worker = site.start_worker("full_disk", LEASE_SECONDS=30)
    site.until(lambda: len(site.lines("end")) >= 2, "the worker to work")
    worker.signal(FILL)
    site.until(lambda: "next try in" in worker.log, "the disk to be full")
    return worker


def test_a_worker_goes_on_when_there_is_room_again(site: Site, worker: Process) -> None:
    done = completed(site)
    begun = len(site.lines("begin"))
    site.until(lambda: worker.log.count("next try in") >= 3, "it to try again")
    assert completed(site) == done
    assert not worker.ended

    worker.signal(MAKE_ROOM)
    site.await_all_ended()

    assert begun <= 6
    assert site.counts() == {"completed": 3}
    check(site)
    assert len(site.lines("begin")) == 9, "what could not be written was kept, not done again"


def test_what_another_process_sees_meanwhile_is_whole(site: Site, worker: Process) -> None:
    assert site.value("PRAGMA integrity_check") == "ok"
    check(site, all_ended=False)

    site.as_client(full_disk.app, fill_one)  # the other process has room
    worker.signal(MAKE_ROOM)
    site.await_all_ended()

    assert site.counts() == {"completed": 4}
    check(site)


def test_a_worker_that_is_killed_while_the_disk_is_full_leaves_a_sound_file(site: Site, worker: Process) -> None:
    worker.kill()

    assert site.value("PRAGMA integrity_check") == "ok"
    site.start_worker("full_disk")
    site.await_all_ended()
    assert site.counts() == {"completed": 3}
    check(site)


def test_a_worker_can_leave_while_the_disk_is_full(site: Site, worker: Process) -> None:
    worker.signal(signal.SIGTERM)
    asked_at = time.monotonic()

    worker.wait(8)

    assert time.monotonic() - asked_at < 3.0
    site.start_worker("full_disk")
    site.await_all_ended()
    check(site)


def test_a_worker_that_lost_its_lease_while_the_disk_was_full_is_reborn(site: Site) -> None:
    site.prepare(full_disk.app, fill)
    worker = site.start_worker("full_disk", LEASE_SECONDS=1)
    site.until(lambda: len(site.lines("end")) >= 2, "the worker to work")
    worker.signal(FILL)
    site.until(lambda: "next try in" in worker.log, "the disk to be full")
    heir = site.start_worker("full_disk", LEASE_SECONDS=1)
    site.await_all_ended()

    site.until(lambda: "has lost its lease" in worker.log, "the worker to see it", 8)
    worker.signal(MAKE_ROOM)
    site.until(lambda: site.rows("SELECT 1 FROM workers WHERE pid = ?", worker.pid), "it to register anew")
    heir.kill()
    site.as_client(full_disk.app, fill_one)
    site.await_all_ended()

    assert site.counts() == {"completed": 4}
    check(site)


async def fill() -> None:
    await full_disk.writes.trigger_many(range(3), ids=[f"w-{n}" for n in range(3)])


async def fill_one() -> None:
    await full_disk.writes.trigger(9, id="w-9")


def completed(site: Site) -> int:
    return site.value("SELECT COUNT(*) FROM steps WHERE status = 'completed'")
