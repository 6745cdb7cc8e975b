"""An execution that kills its worker fails in the end; its neighbours do not."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from stepwell import Execution
from tests.acceptance.harness import Process, Site, check
from tests.acceptance.programs import poison

LIMIT = 5


@pytest.mark.parametrize("kind", ["poison", "slow_poison"])
def test_poison_fails_after_five_crashes_and_its_neighbours_complete(site: Site, kind: str) -> None:
    site.prepare(poison.app, lambda: fill(kind))

    crashes = supervise(site, until=lambda: not site.living())

    assert site.counts() == {"completed": 20, "failed": 1}
    row = site.execution("poison-1")
    assert json.loads(row["error"])["type"] == "stepwell.errors.CrashLoopError"
    assert "5" in json.loads(row["error"])["message"]
    begins = site.lines("begin", "poison-1", "poison")
    assert [line.attempt for line in begins] == [1] * LIMIT
    assert crashes == LIMIT
    check(site)


def test_poison_can_be_cancelled_between_its_crashes(site: Site) -> None:
    site.prepare(poison.app, lambda: fill("poison"))
    supervise(site, until=lambda: len(site.lines("begin", "poison-1")) >= 2)

    site.as_client(poison.app, lambda: poison.poison.cancel("poison-1", "poisonous"))
    supervise(site, until=lambda: not site.living())

    assert site.counts() == {"completed": 20, "cancelled": 1}
    assert len(site.lines("begin", "poison-1")) <= 3
    check(site)


def test_two_poisons_do_not_hold_up_each_other_for_ever(site: Site) -> None:
    async def two() -> None:
        await fill("poison")
        await poison.slow_poison.trigger(id="poison-2")

    site.prepare(poison.app, two)

    supervise(site, until=lambda: not site.living())

    assert site.counts() == {"completed": 20, "failed": 2}
    check(site)


async def fill(kind: str) -> list[Execution[int]]:
    await poison.app.workflows[kind].trigger(id="poison-1")
    return await poison.healthy.trigger_many(range(20), ids=[f"h-{n}" for n in range(20)])


def supervise(site: Site, *, until: Callable[[], object]) -> int:
    """Restart the worker each time that it dies, as systemd would; how often it died."""
    deaths = 0
    worker, spare = site.start("poison"), site.start("poison", WAIT_FOR_GO=1)
    while True:
        done = site.until(
            lambda worker=worker: until() or (worker.ended and "died"), "the worker to end all or to die", 15
        )
        if done != "died":
            break
        deaths += 1
        spare.go()
        worker, spare = spare, site.start("poison", WAIT_FOR_GO=1)
    return deaths + finish(worker, spare)


def finish(worker: Process, spare: Process) -> int:
    died_meanwhile = worker.ended
    worker.kill()
    spare.kill()
    return int(died_meanwhile)
