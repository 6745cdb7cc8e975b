"""kill -9 in the middle of fan-outs: every item that was recorded keeps its value and never runs again."""

from __future__ import annotations

import json
import os
import random
import time

import pytest

from stepwell import Execution
from tests.acceptance.harness import Site, check
from tests.acceptance.programs import fan

KILLS = 12
SEEDS = [int(seed) for seed in os.environ.get("SEEDS", "1").split(",")]


@pytest.mark.guarantee("G2")
@pytest.mark.guarantee("G3")
@pytest.mark.parity("P5.10")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", SEEDS)
def test_fan_outs_survive_kills(site: Site, seed: int) -> None:
    dice = random.Random(seed)
    site.prepare(fan.app, trigger)

    worker, spare = site.start("fan"), site.start("fan", WAIT_FOR_GO=1)
    kills = 0
    while kills < KILLS and site.living():
        progress = site.size() + dice.randint(1_000, 8_000)
        site.until(lambda progress=progress: site.size() > progress or not site.living(), "the ledger to grow", 15)
        time.sleep(dice.random() * 0.02)
        site.spare_the_innocent()
        worker.kill()
        kills += 1
        spare.go()
        worker, spare = spare, site.start("fan", WAIT_FOR_GO=1)
    site.await_all_ended(30)

    assert kills >= KILLS // 2
    check(site)
    assert site.counts() == {"completed": 3}
    for row in site.rows("SELECT id, output FROM stepwell_executions"):
        made = {
            step["path"]: json.loads(step["output"])
            for step in site.rows("SELECT path, output FROM steps WHERE execution_id = ? AND kind = 'run'", row["id"])
        }
        counts = {"map": fan.ITEMS, "threads": fan.ITEMS, "parts": 6}
        assert json.loads(row["output"]) == [
            [made[f"{name}/{index}"] for index in range(count)] for name, count in counts.items()
        ]
        assert {f"effects/{index}" for index in range(fan.ITEMS)} <= made.keys()


async def trigger() -> list[Execution[list[list[int]]]]:
    return await fan.fan.trigger_many(range(3), ids=[f"f-{n}" for n in range(3)])
