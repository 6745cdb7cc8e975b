"""Hot statements use the index that was made for them, whatever the tables hold."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest

from stepwell.store.open import open_store
from stepwell.store.sqlite.connection import query
from stepwell.store.transitions import Parked, Triggered
from tests.store.builders import NOW, SECOND, SteppingClock, apply, new, queue, register

EXPECTED = {
    "attempts": ["e USING PRIMARY KEY", "a USING INDEX sqlite_autoindex_attempts_1 (execution_id=? AND run=?)"],
    "claim_due": ["executions_due (workflow=? AND wake_at<?)"],
    "claim_levels": [
        "executions_queue (workflow=?)",
        "executions_queue (workflow=? AND priority<?)",
        "executions_queue (workflow=? AND priority=? AND wake_at>?)",
    ],
    "claim_next": ["executions_due (workflow=? AND wake_at>?)", "executions_suspect (workflow=? AND wake_at>?)"],
    "claim_queue": ["executions_queue (workflow=? AND priority=? AND wake_at<?)"],
    "claim_suspects": ["executions_suspect (workflow=? AND wake_at<?)"],
    "claim_take": ["executions USING PRIMARY KEY (id=?)"],
    "claimed": ["e USING PRIMARY KEY (id=?)", "sqlite_autoindex_payloads_1 (execution_id=? AND run=?)"],
    "children_release": ["executions_parent (parent_id=?)"],
    "count_by_status": ["COVERING INDEX executions_status (status=? AND created_at>? AND (created_at,id)<(?,?))"],
    "count_by_tag": ["tags USING PRIMARY KEY (tag=? AND created_at>? AND (created_at,execution_id)<(?,?))"],
    "count_by_workflow": ["COVERING INDEX executions_workflow (workflow=? AND status=?"],
    "delete_events": ["events USING INDEX events_"],
    "delete_tags": ["tags_execution (execution_id=?)"],
    "executions_by_id": ["e USING PRIMARY KEY (id>? AND id<?)"],
    "executions_by_status": ["executions_status (status=? AND created_at>? AND (created_at,id)<(?,?))"],
    "executions_by_tag": ["first USING PRIMARY KEY (tag=? AND created_at>? AND (created_at,execution_id)<(?,?))"],
    "executions_by_status_tagged": [
        "x USING COVERING INDEX executions_status (status=? AND created_at>? AND (created_at,id)<(?,?))",
        "e USING PRIMARY KEY (id=?)",
        "first USING PRIMARY KEY (tag=? AND created_at=? AND execution_id=?)",
    ],
    "executions_by_time": ["executions_created (created_at>? AND (created_at,id)<(?,?))"],
    "executions_by_workflow": [
        "executions_workflow (workflow=? AND status=? AND created_at>? AND (created_at,id)<(?,?))"
    ],
    "executions_by_workflow_tagged": [
        "x USING COVERING INDEX executions_workflow (workflow=? AND status=? AND created_at>? AND (created_at,id)<(?,?))",
        "e USING PRIMARY KEY (id=?)",
    ],
    "executions_give_back": ["executions_owner (owner=?)"],
    "executions_with_prefix": ["executions USING PRIMARY KEY (id>? AND id<?)"],
    "expired": ["executions_expiry (<expr>>? AND <expr><?)"],
    "expiry_next": ["executions_expiry (<expr>>?)"],
    "finished": ["executions USING PRIMARY KEY (id=?)"],
    "history": ["e USING PRIMARY KEY (id=?)", "s USING INDEX sqlite_autoindex_steps_1 (execution_id=? AND run=?)"],
    "needed_by": ["steps_awaits (awaits=?)", "w USING PRIMARY KEY", "p USING PRIMARY KEY"],
    "owned": ["COVERING INDEX executions_owner (owner=?)"],
    "ownership": ["e USING PRIMARY KEY (id=?)"],
    "parked": ["executions USING PRIMARY KEY (id=?)"],
    "payload_finished": ["sqlite_autoindex_payloads_1 (execution_id=? AND run=?)"],
    "revision": ["e USING PRIMARY KEY (id=?)", "s USING INDEX sqlite_autoindex_steps_1 (execution_id=? AND run=?)"],
    "runs": ["e USING PRIMARY KEY (id=?)", "p USING INDEX sqlite_autoindex_payloads_1 (execution_id=?)"],
    "steps": ["e USING PRIMARY KEY (id=?)", "s USING INDEX sqlite_autoindex_steps_1 (execution_id=? AND run=?)"],
    "steps_cancel_open": ["steps_open (execution_id=? AND run=?)"],
    "stream_append": ["streams USING PRIMARY KEY (execution_id=? AND stream=?)"],
    "stream_last_take": ["streams_place (execution_id=? AND run=? AND path=? AND stream=?)"],
    "stream_news": ["s USING PRIMARY KEY (execution_id=? AND stream=? AND offset>?)", "e USING PRIMARY KEY (id=?)"],
    "stream_page": ["s USING PRIMARY KEY (execution_id=? AND stream=? AND offset>?)"],
    "stream_take": ["streams_place (execution_id=? AND run=? AND path=? AND stream=? AND take=? AND n>?)"],
    "steps_copy": ["steps USING INTEGER PRIMARY KEY (rowid=?)"],
    "steps_recorded": ["sqlite_autoindex_steps_1 (execution_id=? AND run=?)", "c USING PRIMARY KEY (id=?)"],
    "steps_waiting": ["steps_open (execution_id=? AND run=?)"],
    "steps_wake": ["steps_open (execution_id=? AND run=?)"],
    "tags": ["tags_execution (execution_id=?)"],
    "unfinished": ["e USING PRIMARY KEY (id=?)"],
}
# Small tables, or the whole of one on purpose.
MAY_SCAN = {"counts", "worker_neighbours", "workers", "schema_version", "schema_version_exists"}
SORTED_BY_INDEX = {
    "claim_due",
    "claim_queue",
    "claim_suspects",
    "expired",
    "expiry_next",
    "stream_page",
    "stream_take",
} | {f"executions_by_{name}" for name in ("status", "status_tagged", "tag", "time", "workflow", "workflow_tagged")}

# Statistics that tempt the planner: one workflow, one status, one tag for everything.
SAMPLE = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 500)
INSERT INTO executions (id, workflow, status, owner, epoch, wake_at, priority, created_at)
SELECT n, 'wf', iif(n % 50, 'completed', 'queued'), iif(n % 9, NULL, 'w'), 1, iif(n % 50, NULL, n), 0, n FROM numbers;
INSERT INTO payloads (execution_id, run) SELECT id, 1 FROM executions;
INSERT INTO steps (execution_id, run, path, seq, kind, status, attempt, epoch, started_at, finished_at)
SELECT id, 1, 'a', 1, 'run', 'completed', 1, 1, 1, 1 FROM executions;
INSERT INTO attempts (execution_id, run, path, attempt, error, started_at, finished_at)
SELECT id, 1, 'a', 1, '', 1, 1 FROM executions;
INSERT INTO tags (tag, created_at, execution_id) SELECT 't', created_at, id FROM executions;
INSERT INTO streams (execution_id, stream, "offset", run, path, take, n, value, emitted_at)
SELECT '7', 's', n, 1, 'a', 1, n, '1', 1 FROM (SELECT created_at AS n FROM executions);
ANALYZE;
"""

ALL = sorted(entry.name.removesuffix(".sql") for entry in files("stepwell.store.sqlite").joinpath("queries").iterdir())


@pytest.fixture(scope="module", params=["plain", "analyzed"])
def database(request: pytest.FixtureRequest) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(query("schema_version_create"))
        connection.executescript(
            files("stepwell.store.sqlite").joinpath("migrations", "0001_initial.sql").read_text(encoding="utf-8")
        )
        if request.param == "analyzed":
            connection.executescript(SAMPLE)
        yield connection


def plan(database: sqlite3.Connection, name: str) -> list[str]:
    statement = query(name)
    code = re.sub(r"--.*", "", statement)
    named = set(re.findall(r":(\w+)", code))
    parameters = dict.fromkeys(named) if named else [None] * code.count("?")
    return [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]


@pytest.mark.parametrize("name", EXPECTED)
def test_statement_uses_its_index(database: sqlite3.Connection, name: str) -> None:
    steps = plan(database, name)

    for part in EXPECTED[name]:
        assert any(part in step for step in steps), steps


@pytest.mark.parametrize("name", [name for name in ALL if name not in MAY_SCAN])
def test_no_statement_reads_a_whole_table(database: sqlite3.Connection, name: str) -> None:
    tables = "executions|steps|payloads|attempts|events|streams|tags|workers|[acepstvwx]|first"

    assert not [step for step in plan(database, name) if re.match(rf"SCAN ({tables})\b", step)]


@pytest.mark.parametrize("name", sorted(SORTED_BY_INDEX))
def test_rows_come_in_order_from_the_index(database: sqlite3.Connection, name: str) -> None:
    assert not [step for step in plan(database, name) if "FOR ORDER BY" in step]


def test_every_statement_stands_alone() -> None:
    for name in ALL:
        assert sqlite3.complete_statement(query(name) + ";")
        assert ";" not in re.sub(r"--.*", "", query(name)), name


@pytest.mark.anyio
async def test_sleepers_do_not_slow_a_claim(tmp_path: Path) -> None:
    """20,000 that sleep, are delayed, or belong to others; the claim of the one that is due does not look at them."""
    async with open_store(f"sqlite:///{tmp_path / 'test.db'}", clock=SteppingClock()) as store:
        await register(store)
        ids = [f"s{index:05}" for index in range(10_000)]
        await apply(store, *(Triggered(new(id, owner="w")) for id in ids))
        await apply(store, *(Parked(id, 1, "sleeping", NOW + 9 * SECOND, "s") for id in ids))
        await queue(store, *(f"d{index:05}" for index in range(5_000)), wake_at=NOW + 9 * SECOND, priority=9)
        await queue(store, *(f"o{index:05}" for index in range(5_000)), workflow="other")
        await queue(store, "due")

        spent: list[float] = []
        for _ in range(5):
            begin = time.perf_counter()
            result = await store.claim("w", ["wf"], 500, suspects=1, now=NOW)
            spent.append(time.perf_counter() - begin)
            if result.claimed:
                assert [each.id for each in result.claimed] == ["due"]
            assert (result.more, result.next_at) == (False, NOW + 9 * SECOND)
        assert min(spent) < 0.01
