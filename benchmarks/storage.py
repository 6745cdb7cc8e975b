"""A million stored executions: what a page of a list takes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.database import opened
from benchmarks.measure import Figure, Plan, percentile, run, scratch, url
from stepwell import App
from stepwell.execution import ExecutionList

_PAGES: Final = 20
_PATIENCE_MS: Final = 500.0

_FILL: Final = (
    """
    CREATE TEMP TABLE numbers AS
    WITH RECURSIVE counted (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counted LIMIT :count)
    SELECT n FROM counted
    """,
    # One in a hundred runs, sleeps or has failed; one in a thousand is of the rare workflow.
    """
    INSERT INTO executions (id, workflow, status, epoch, priority, created_at, started_at, finished_at, wake_at)
    SELECT
        printf('01m7%022x', n),
        CASE WHEN n % 1000 = 7 THEN 'rare' ELSE 'workflow-' || (n % 5) END,
        CASE n % 100 WHEN 1 THEN 'paused' WHEN 2 THEN 'cancelled' WHEN 3 THEN 'failed' ELSE 'completed' END,
        1, 0, :now + n * 1000, :now + n * 1000, :now + n * 1000 + 500, NULL
    FROM numbers
    """,
    """
    INSERT INTO payloads (execution_id, run, input, output)
    SELECT printf('01m7%022x', n), 1, '{"order":' || n || '}', '{"total":' || n || '}' FROM numbers
    """,
    """
    INSERT INTO tags (tag, created_at, execution_id)
    SELECT 'customer-' || (n % 1000), :now + n * 1000, printf('01m7%022x', n) FROM numbers ORDER BY n % 1000, n
    """,
    """
    INSERT INTO tags (tag, created_at, execution_id)
    SELECT 'eu', :now + n * 1000, printf('01m7%022x', n) FROM numbers WHERE n % 2 = 0 ORDER BY n
    """,
)


def lists(plan: Plan) -> list[Figure]:
    """1,000,000 stored executions: pages of 50 with each filter."""
    count = plan.size(1_000_000, least=2_000)
    with scratch() as folder:
        times = run(_lists(folder / "bench.db", count, min(plan.rounds, 3)))
    figures = [Figure(f"page of {count:,}: {title}", "ms", rounds, at_most=20) for title, (rounds, _) in times.items()]
    slowest = max(worst for _, worst in times.values())
    return [*figures, Figure(f"page of {count:,}: the slowest of all", "ms", [slowest])]


async def _lists(path: Path, count: int, rounds: int) -> dict[str, tuple[list[float], float]]:
    app = App("bench", database=url(path))
    async with app.connected():
        pass
    _fill(path, count)
    times: dict[str, tuple[list[float], float]] = {}
    async with app.connected():
        middle = f"01m7{count // 2:022x}"
        for title, (chosen, full) in _filters(middle).items():
            times[title] = await _measure(lambda chosen=chosen: app.list_executions(**chosen), rounds, full)
        deep = await _deep(app, pages=min(200, count // 2000))
        times["a page deep in the list"] = await _measure(lambda: app.list_executions(cursor=deep), rounds, True)
    return times


def _filters(middle: str) -> dict[str, tuple[dict[str, Any], bool]]:
    """The lists that are asked for, and whether they have any rows: finding none is the harder work."""
    return {
        "all": ({}, True),
        "status": ({"status": "failed"}, True),
        "several statuses": ({"status": ["paused", "failed"]}, True),
        "status, none": ({"status": "aborted"}, False),
        "workflow": ({"workflow": "workflow-3"}, True),
        "rare workflow, status": ({"workflow": "rare", "status": "completed"}, True),
        "workflow, status, none": ({"workflow": "workflow-3", "status": "queued"}, False),
        "id prefix, short": ({"id_prefix": "01m7"}, True),
        "id prefix, long": ({"id_prefix": middle[:-2]}, True),
        "tag": ({"tags": ["customer-77"]}, True),
        "two tags": ({"tags": ["eu", "customer-78"]}, True),
        "two tags, none": ({"tags": ["eu", "customer-77"]}, False),
        "common tag, status": ({"tags": ["eu"], "status": "cancelled"}, True),
        "common tag, status, none": ({"tags": ["eu"], "status": "paused"}, False),
        "since": ({"since": "1 hour"}, True),
    }


async def _measure(page: Callable[[], Awaitable[ExecutionList]], rounds: int, found: bool) -> tuple[list[float], float]:
    medians: list[float] = []
    slowest = 0.0
    for _ in range(rounds):
        samples: list[float] = []
        while len(samples) < _PAGES and sum(samples) < _PATIENCE_MS:
            began = time.perf_counter()
            result = await page()
            samples.append((time.perf_counter() - began) * 1000)
            if bool(result.executions) != found:
                raise RuntimeError(f"{len(result.executions)} executions were found, which was not expected.")
        medians.append(percentile(samples, 0.5))
        slowest = max(slowest, *samples)
    return medians, slowest


async def _deep(app: App, pages: int) -> str | None:
    cursor: str | None = None
    for _ in range(pages):
        cursor = (await app.list_executions(limit=1000, cursor=cursor)).next_cursor
    return cursor


def _fill(path: Path, count: int) -> None:
    now = time.time_ns() // 1000 - count * 1000
    with opened(path) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -200000")
        for statement in _FILL:
            connection.execute(statement, {"count": count, "now": now})
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
