"""kill -9 at any moment: everything ends, nothing that was recorded happens again."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest

from stepwell import Execution
from tests.acceptance.harness import Site, check, stop_outside_a_transaction
from tests.acceptance.programs import journey

KILLS = 25
SEEDS = [int(seed) for seed in os.environ.get("SEEDS", "1").split(",")]
"""Give more of them for a longer run."""


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G2")
@pytest.mark.guarantee("G3")
@pytest.mark.guarantee("G6")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", SEEDS)
def test_sixty_executions_survive_twenty_five_kills(site: Site, seed: int) -> None:
    dice = random.Random(seed)
    site.prepare(journey.app, trigger(60))

    worker, spare = site.start("journey"), site.start("journey", WAIT_FOR_GO=1)
    kills = 0
    while kills < KILLS and site.living():
        progress = site.size() + dice.randint(1_500, 12_000)
        site.until(lambda progress=progress: site.size() > progress or not site.living(), "the ledger to grow", 15)
        time.sleep(dice.random() * 0.02)
        site.spare_the_innocent()
        worker.kill()
        kills += 1
        spare.go()
        worker, spare = spare, site.start("journey", WAIT_FOR_GO=1)
    site.await_all_ended(30)

    assert kills >= KILLS // 2
    check(site)
    check_journeys(site)


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G4")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", SEEDS)
def test_three_workers_are_killed_stopped_and_asked_to_leave(site: Site, seed: int) -> None:
    """Anything that can happen to processes, all at once; leases are so short that each longer stop costs one."""
    dice = random.Random(seed)
    site.prepare(journey.app, trigger(90))
    crew = [site.start("journey", LEASE_SECONDS=0.5, CONCURRENCY=8) for _ in range(3)]
    spare = site.start("journey", LEASE_SECONDS=0.5, CONCURRENCY=8, WAIT_FOR_GO=1)

    for _ in range(30):
        site.until(lambda: len(site.lines("ready")) == len(site.processes) - 3, "the spare to be ready")
        if not site.living():
            break
        progress = site.size() + dice.randint(200, 6_000)
        site.until(lambda progress=progress: site.size() > progress or not site.living(), "the ledger to grow", 15)
        victim = dice.randrange(len(crew))
        match dice.choice(["kill", "stop", "stop", "leave"]):
            case "kill":
                site.spare_the_innocent()
                crew[victim].kill()
            case "leave":
                crew[victim].signal(signal.SIGTERM)
            case _:
                stop_outside_a_transaction(site, crew[victim])
                time.sleep(dice.choice([0.05, 0.9]))
                crew[victim].signal(signal.SIGCONT)
                continue
        spare.go()
        crew[victim], spare = spare, site.start("journey", LEASE_SECONDS=0.5, CONCURRENCY=8, WAIT_FOR_GO=1)
    site.await_all_ended(30)

    check(site, bodies_of_zombies=True)
    check_journeys(site)


def trigger(count: int):
    async def fill() -> list[Execution[dict[str, int]]]:
        return await journey.journey.trigger_many(range(count), ids=[f"j-{n}" for n in range(count)])

    return fill


def check_journeys(site: Site) -> None:
    assert site.counts().keys() == {"completed"}, site.rows(
        "SELECT id, status, error FROM stepwell_executions WHERE status <> 'completed'"
    )[0]["error"]
    for row in site.rows("SELECT id, output FROM stepwell_executions"):
        made = {
            step["path"]: json.loads(step["output"])
            for step in site.rows(
                "SELECT path, output FROM steps WHERE execution_id = ? AND kind = 'run' AND status = 'completed'",
                row["id"],
            )
        }
        expected = {name: made[name] for name in ("first", "left", "right", "flaky", "outer", "last")}
        expected |= {"fast": made["racer"], "slow": -1, "quick": (made["quick-one"] + made["quick-two"]) % 2**52}
        assert json.loads(row["output"]) == expected
        assert made["outer"] == sum(made[f"outer/inner-{n}"] for n in (1, 2, 3)) % 2**52
        attempts = site.rows(
            "SELECT attempt FROM attempts WHERE execution_id = ? AND path = 'flaky' ORDER BY attempt", row["id"]
        )
        assert [each["attempt"] for each in attempts] == [1, 2]
    for line in site.lines("woke"):
        [wake_at] = {
            each["wake_at"]
            for each in site.rows(
                "SELECT wake_at FROM test_steps WHERE execution_id = ? AND path = ? AND wake_at IS NOT NULL",
                line.execution,
                line.more["of"],
            )
        }
        assert line.at >= wake_at, f"I9: woke {wake_at - line.at} us too early"
