"""What every store promises to people: `StoreReader`."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from msgspec.structs import replace

from stepwell.errors import InvalidInputError
from stepwell.store.open import OpenStore
from stepwell.store.records import ExecutionFilter, ExecutionRow
from stepwell.store.sqlite import search
from stepwell.store.transitions import Failing, Progressed, StepFlagged, Transition, Triggered
from tests.store.builders import (
    NOW,
    apply,
    claim,
    finished,
    get,
    new,
    queue,
    register,
    retrying,
    start,
    started,
    step,
    waiting,
)

pytestmark = pytest.mark.anyio


async def page_ids(store: OpenStore, **filters: Any) -> list[str]:
    """All pages of a filter."""
    ids: list[str] = []
    cursor: str | None = None
    while True:
        page = await store.executions(replace(ExecutionFilter(limit=2, cursor=cursor), **filters))
        assert len(page.rows) <= filters.get("limit", 2)
        ids += [row.id for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            return ids


async def fill(store: OpenStore) -> None:
    """Seven executions, oldest first: a0 … a6, two at each moment."""
    await register(store)
    for index in range(7):
        tags = tuple(tag for tag, every in (("two", 2), ("three", 3)) if index % every == 0)
        workflow = "wf" if index < 5 else "other"
        await apply(store, Triggered(new(f"a{index}", workflow, created_at=NOW + index // 2, tags=tags, owner="w")))
    await apply(store, finished("a1", status="failed"), finished("a3", status="failed"), finished("a6"))


async def test_pages_run_from_the_newest(store: OpenStore) -> None:
    await fill(store)

    assert await page_ids(store) == ["a6", "a5", "a4", "a3", "a2", "a1", "a0"]
    assert await page_ids(store, limit=7) == ["a6", "a5", "a4", "a3", "a2", "a1", "a0"]
    assert (await store.executions(ExecutionFilter(limit=7))).next_cursor is None


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"statuses": ("failed",)}, ["a3", "a1"]),
        ({"statuses": ("failed", "completed", "failed")}, ["a6", "a3", "a1"]),
        ({"workflow": "wf"}, ["a4", "a3", "a2", "a1", "a0"]),
        ({"workflow": "wf", "statuses": ("running",)}, ["a4", "a2", "a0"]),
        ({"workflow": "nothing"}, []),
        ({"tags": ("two",)}, ["a6", "a4", "a2", "a0"]),
        ({"tags": ("two", "three")}, ["a6", "a0"]),
        ({"tags": ("two",), "workflow": "wf", "statuses": ("running",), "since": NOW + 1}, ["a4", "a2"]),
        ({"tags": ("two",), "workflow": "other"}, ["a6"]),
        ({"since": NOW + 2}, ["a6", "a5", "a4"]),
        ({"statuses": ("running",), "since": NOW + 2}, ["a5", "a4"]),
        ({"id_prefix": "a"}, ["a6", "a5", "a4", "a3", "a2", "a1", "a0"]),
        ({"id_prefix": "a4"}, ["a4"]),
        ({"id_prefix": "a", "tags": ("three",), "statuses": ("failed",)}, ["a3"]),
        ({"id_prefix": "a", "workflow": "other", "since": NOW + 3}, ["a6"]),
        ({"id_prefix": "b"}, []),
    ],
)
async def test_filters_combine(store: OpenStore, filters: dict[str, Any], expected: list[str]) -> None:
    await fill(store)

    assert await page_ids(store, **filters) == expected


async def test_a_frequent_prefix_is_paged_too(store: OpenStore) -> None:
    ids = [f"a{index:04}" for index in range(1_100)]
    await apply(store, *(Triggered(new(id, tags=("t",))) for id in ids), by=None)

    for filters in ({}, {"tags": ("t",)}, {"workflow": "wf"}, {"statuses": ("queued",)}):
        assert await page_ids(store, id_prefix="a", limit=500, **filters) == ids[::-1]
        assert await page_ids(store, id_prefix="a00", limit=500, **filters) == ids[99::-1]


async def test_paging_returns_everything_once_while_rows_change(store: OpenStore) -> None:
    await register(store)
    await start(store, *(f"e{index:02}" for index in range(20)))

    seen: list[str] = []
    cursor: str | None = None
    for turn in range(100):
        page = await store.executions(ExecutionFilter(limit=3, cursor=cursor))
        seen += [row.id for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            break
        await apply(store, finished(page.rows[0].id), finished(f"e{turn:02}"), fence=-1)
        await queue(store, f"new{turn}", created_at=NOW + 1 + turn)

    assert seen == [f"e{index:02}" for index in range(19, -1, -1)]


async def test_lists_carry_no_payloads(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", tags=("t",))
    await apply(store, finished())

    [row] = (await store.executions(ExecutionFilter())).rows
    assert (row.input, row.output, row.error, row.tags) == (None, None, None, ("t",))
    full = await get(store)
    assert (full.input, full.output, full.error) == ('{"n":1}', '"done"', None)
    assert without_payloads(full) == row


def without_payloads(row: ExecutionRow) -> ExecutionRow:
    return replace(row, input=None, output=None, error=None)


@pytest.mark.parametrize("limit", [0, -1, 1_001])
async def test_limit_outside_its_range_is_refused(store: OpenStore, limit: int) -> None:
    with pytest.raises(InvalidInputError, match=r"limit must be 1 to 1000, got"):
        await store.executions(ExecutionFilter(limit=limit))


@pytest.mark.parametrize(
    "cursor", ["", "x", "!!!!", "bm8", "MSw", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTksYQ", "é", "MSwgYQ\n"]
)
async def test_cursor_of_nobody_is_refused(store: OpenStore, cursor: str) -> None:
    with pytest.raises(InvalidInputError, match="cursor must be the next_cursor"):
        await store.executions(ExecutionFilter(cursor=cursor))


async def test_filters_that_nothing_can_match_are_refused(store: OpenStore) -> None:
    with pytest.raises(InvalidInputError, match="status must be one of queued, "):
        await store.executions(ExecutionFilter(statuses=("done",)))
    with pytest.raises(InvalidInputError, match="id_prefix must be"):
        await store.executions(ExecutionFilter(id_prefix="%"))


async def test_what_is_unknown_is_none_or_empty(store: OpenStore) -> None:
    assert await store.execution("nowhere") is None
    assert await store.steps("nowhere") == []
    assert await store.revision("nowhere") == ()


async def test_steps_are_in_order_of_their_start(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, step(path="c", seq=3, started_at=NOW + 1), step(path="b", seq=1, started_at=NOW + 2))
    await apply(store, step(path="a", seq=2, started_at=NOW + 2))

    assert [row.path for row in await store.steps("e")] == ["c", "b", "a"]
    assert await store.steps("e", 1) == await store.steps("e")
    assert await store.steps("e", 2) == []


async def test_counts_name_every_status(store: OpenStore) -> None:
    await fill(store)

    counts = await store.counts()
    assert (counts["running"], counts["failed"], counts["completed"], counts["paused"]) == (4, 2, 1, 0)
    assert len(counts) == 9


async def test_revision_differs_after_each_change(store: OpenStore) -> None:
    await register(store)
    await queue(store, "e")
    revisions = [await store.revision("e")]
    await claim(store)
    revisions.append(await store.revision("e"))
    changes: list[Transition] = [
        started(),
        retrying(),
        started(attempt=2),
        waiting(wake_at=NOW + 5, idle=True),
        step(attempt=2, status="failed", error='"no"'),
        StepFlagged("e", 1, 1, "a", "repeated"),
        step(path="s", kind="sleep", output=None),
        Failing("e", 1, 1, '"no"'),
        finished(status="failed"),
    ]
    for change in changes:
        assert await apply(store, change) == [None]
        revisions.append(await store.revision("e"))

    assert len(set(revisions)) == len(changes) + 2
    await apply(store, Progressed("e", 1))
    assert await store.revision("e") == revisions[-1]


@pytest.mark.parametrize("limits", [(1_000, (10_000, 100_000)), (2, (1, 4)), (1, (3, 8)), (1, (20, 40)), (1, ())])
async def test_lists_by_tags_are_the_same_whatever_is_rarest(
    store: OpenStore, monkeypatch: pytest.MonkeyPatch, limits: tuple[int, tuple[int, ...]]
) -> None:
    monkeypatch.setattr(search, "WINDOW", limits[0])
    monkeypatch.setattr(search, "MANY", limits[1])
    monkeypatch.setattr(search, "FEW", limits[0])
    await register(store)
    for index in range(40):
        tags = tuple(f"by-{every}" for every in (1, 2, 3, 5, 13) if index % every == 0)
        fields: dict[str, Any] = {"created_at": NOW + index // 2, "tags": tags, "owner": "w"}
        await apply(store, Triggered(new(f"a{index:02}", "wf" if index % 4 else "other", **fields)))
        if index % 3:
            await apply(store, finished(f"a{index:02}", status="failed" if index % 7 == 0 else "completed"))
    rows = (await store.executions(ExecutionFilter(limit=100))).rows
    choices: dict[str, list[Any]] = {
        "tags": [
            ("by-1",),
            ("by-2", "by-3"),
            ("by-1", "by-13"),
            ("by-5", "by-5"),
            ("by-2", "none"),
            ("by-1", "by-2", "by-3"),
        ],
        "statuses": [(), ("running",), ("failed", "completed"), ("queued",)],
        "workflow": [None, "wf", "other", "none"],
        "since": [None, NOW + 9],
        "id_prefix": [None, "a1"],
    }

    for values in product(*choices.values()):
        filters = dict(zip(choices, values, strict=True))
        expected = [
            row.id
            for row in rows
            if set(filters["tags"]) <= set(row.tags)
            and (not filters["statuses"] or row.status in filters["statuses"])
            and filters["workflow"] in (None, row.workflow)
            and row.created_at >= (filters["since"] or 0)
            and row.id.startswith(filters["id_prefix"] or "")
        ]
        assert await page_ids(store, **filters) == expected, filters
