"""Transactions with the user's own tables: whatever happens, the table and the record say the same."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import defaultdict

import pytest

from stepwell import Execution
from tests.acceptance.harness import Site, check, stop_outside_a_transaction
from tests.acceptance.programs import books

KILLS = 25
SEEDS = [int(seed) for seed in os.environ.get("SEEDS", "1").split(",")]
"""Give more of them for a longer run."""


@pytest.mark.guarantee("G3")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", SEEDS)
def test_table_and_record_agree_through_twenty_five_kills(site: Site, seed: int) -> None:
    dice = random.Random(seed)
    prepare(site, 60)

    worker, spare = site.start("books"), site.start("books", WAIT_FOR_GO=1)
    kills = 0
    while kills < KILLS and site.living():
        progress = site.size() + dice.randint(500, 9_000)
        site.until(lambda progress=progress: site.size() > progress or not site.living(), "the ledger to grow", 15)
        time.sleep(dice.random() * 0.01)
        site.spare_the_innocent()
        worker.kill()
        kills += 1
        check_books(site)
        spare.go()
        worker, spare = spare, site.start("books", WAIT_FOR_GO=1)
    site.await_all_ended(30)

    assert kills >= KILLS // 3
    check(site)
    check_books(site)
    assert site.counts() == {"completed": 60}
    rolled_back = {line.more["value"] for line in site.lines("middle")} - {value for _, value in entries(site)}
    assert len(rolled_back) > 60, "the attempts that failed, and those that were killed"


@pytest.mark.guarantee("G3")
@pytest.mark.guarantee("G4")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", SEEDS)
def test_table_and_record_agree_with_zombies(site: Site, seed: int) -> None:
    """Leases are so short that each longer stop costs one; who comes back has nothing to write any more."""
    dice = random.Random(seed)
    prepare(site, 60)
    crew = [site.start_worker("books", LEASE_SECONDS=0.5, CONCURRENCY=8) for _ in range(3)]

    for _ in range(15):
        if not site.living():
            break
        victim = dice.choice(crew)
        stop_outside_a_transaction(site, victim)
        time.sleep(dice.choice([0.05, 0.7]))
        victim.signal(signal.SIGCONT)
        time.sleep(dice.random() * 0.05)
    site.await_all_ended(30)

    check(site, bodies_of_zombies=True)
    check_books(site)
    assert site.counts() == {"completed": 60}


def test_a_transaction_waits_for_room_on_the_disk_and_is_then_written_once(site: Site) -> None:
    site.prepare(books.app, lambda: books.slow_books.trigger(0, id="b-0"))
    site.rows(books.TABLE)
    worker = site.start_worker("books", LEASE_SECONDS=30)
    site.until(lambda: site.lines("middle"), "the worker to work")
    worker.signal(signal.SIGURG)
    site.until(lambda: worker.log.count("was not written; next try in") >= 3, "the transaction to be tried again")
    check_books(site)

    worker.signal(signal.SIGWINCH)
    site.await_all_ended()

    assert site.counts() == {"completed": 1}
    assert len(site.lines("middle")) >= 4, "it ran each time, and was rolled back"
    check(site)
    check_books(site)


def prepare(site: Site, count: int) -> None:
    async def fill() -> list[Execution[int]]:
        plain = count // 3
        await books.plain_books.trigger_many(range(plain), ids=[f"p-{n}" for n in range(plain)])
        return await books.books.trigger_many(range(count - plain), ids=[f"b-{n}" for n in range(count - plain)])

    site.prepare(books.app, fill)
    site.rows(books.TABLE)


def entries(site: Site) -> dict[tuple[tuple[str, str], int], int]:
    """How many rows there are of each value of each step."""
    rows = site.rows("SELECT execution, path, value, COUNT(*) AS rows FROM entries GROUP BY execution, path, value")
    return {((row["execution"], row["path"]), row["value"]): row["rows"] for row in rows}


def check_books(site: Site) -> None:
    """In one snapshot: each recorded step has its rows, once, and there are no others."""
    site.rows("BEGIN")
    try:
        found = entries(site)
        recorded = {
            (row["execution_id"], row["path"]): json.loads(row["output"])
            for row in site.rows(
                "SELECT execution_id, path, output FROM steps WHERE kind = 'transaction' AND status = 'completed'"
            )
        }
    finally:
        site.rows("COMMIT")
    assert set(found) == set(recorded.items())
    assert set(found.values()) <= {books.ROWS}
    paths: defaultdict[str, set[str]] = defaultdict(set)
    for execution, path in recorded:
        paths[execution].add(path)
    for row in site.rows("SELECT id, output FROM stepwell_executions WHERE status = 'completed'"):
        assert json.loads(row["output"]) == sum(recorded[row["id"], path] for path in paths[row["id"]])
