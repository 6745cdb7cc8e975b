"""Deleting executions, by hand and when their retention ends: `Store.delete`, `Store.expire`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from stepwell.store.open import OpenStore, open_store
from stepwell.store.records import Deletion, ExecutionFilter, Expired
from stepwell.store.sqlite.rows import TABLES
from stepwell.store.transitions import (
    ChildAwaited,
    ChildStarted,
    Emitted,
    EventSent,
    Exists,
    Listened,
    Refused,
    Triggered,
    Unknown,
)
from tests.store.builders import (
    NOW,
    SECOND,
    SteppingClock,
    apply,
    claim,
    finished,
    get,
    new,
    queue,
    register,
    retrying,
    start,
    step,
)

pytestmark = pytest.mark.anyio

DAY = 86_400 * SECOND


def child_of(parent: str, id: str = "c", *, path: str = "a", waits: bool, attached: bool = True) -> ChildStarted:
    child = new(id, parent_id=parent, parent_run=1, parent_path=path, attached=attached, retention=DAY)
    return ChildStarted(parent, 1, 1, path, 1, "execute_workflow", None, NOW + 1, child, waits, False)


def awaiting(id: str, awaits: str, path: str = "b") -> ChildAwaited:
    return ChildAwaited(id, 1, 1, path, 2, "wait_for_workflow", None, NOW + 1, awaits, False)


async def end(store: OpenStore, *ids: str, at: int = NOW + 3, status: str = "completed") -> None:
    assert await apply(store, *(finished(id, status=status, finished_at=at) for id in ids)) == [None] * len(ids)


async def ended(store: OpenStore, *ids: str, at: int = NOW + 3, **fields: Any) -> None:
    await start(store, *ids, **fields)
    await end(store, *ids, at=at)


async def exist(store: OpenStore) -> set[str]:
    return {row.id for row in (await store.executions(ExecutionFilter(limit=1000))).rows}


def schema() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    for path in files("stepwell.store.sqlite").joinpath("migrations").iterdir():
        connection.executescript(path.read_text(encoding="utf-8"))
    return connection


async def test_every_table_with_rows_of_executions_is_in_the_list() -> None:
    with closing(schema()) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        columns = {name: {row[1] for row in connection.execute(f"PRAGMA table_info({name})")} for name in names}

    assert sorted(name for name in names if "execution_id" in columns[name]) == list(TABLES)
    assert "executions" in names


async def test_nothing_is_left_of_a_deleted_execution(file_url: str, tmp_path: Path, clock: SteppingClock) -> None:
    async with open_store(file_url, clock=clock) as store:
        await register(store)
        for id in ("e", "f"):
            await start(store, id, tags=("x", "y"))
            await apply(store, EventSent(id, "paid", "1", f"{id}-1", NOW), EventSent(id, "paid", "2", f"{id}-2", NOW))
            await apply(store, Listened(id, 1, 1, "l", 1, None, "paid", NOW, NOW, None, True, None, False))
            await apply(store, Emitted(id, 1, 1, "", "news", 1, 0, ("1", "2"), NOW))
            await apply(store, retrying(id), step(id, attempt=2), step(id, path="s"))
            await end(store, id)

        assert await store.delete("e") == Deletion("e", True, "completed", False, None)
        assert await store.execution("e") is None
        assert await store.delete("e") is None

    with closing(sqlite3.connect(tmp_path / "test.db")) as connection:
        tables = dict.fromkeys(TABLES, "execution_id") | {"executions": "id"}
        left = {
            table: {id for (id,) in connection.execute(f"SELECT {column} FROM {table}")}
            for table, column in tables.items()
        }
    assert left == {table: {"f"} for table in tables}


@pytest.mark.parametrize("status", ["queued", "running"])
async def test_a_living_execution_is_not_deleted(store: OpenStore, status: str) -> None:
    await register(store)
    await (queue(store, "e") if status == "queued" else start(store, "e"))

    assert await store.delete("e") == Deletion("e", False, status, False, None)
    assert (await get(store)).status == status


async def test_a_child_is_kept_until_its_parent_has_read_its_end(store: OpenStore) -> None:
    await register(store)
    await start(store, "p")
    await apply(store, child_of("p", waits=True, attached=False))
    await claim(store)
    await end(store, "c")

    assert await store.delete("c") == Deletion("c", False, "completed", False, "p")
    await apply(store, step("p", path="a", kind="execute_workflow"))
    deletion = await store.delete("c")
    assert deletion is not None
    assert deletion.done


async def test_an_awaited_execution_is_kept_whoever_awaits_it(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", "w")
    await apply(store, awaiting("w", "e"))
    await end(store, "e")

    assert await store.delete("e") == Deletion("e", False, "completed", False, "w")
    await end(store, "w", status="failed")
    assert (await store.delete("e")) == Deletion("e", True, "completed", False, None)


async def test_listening_for_an_event_of_the_same_name_keeps_nobody(store: OpenStore) -> None:
    await register(store)
    await start(store, "w")
    await ended(store, "e")
    await apply(store, Listened("w", 1, 1, "l", 1, None, "e", NOW, NOW, None, True, None, False))

    assert await store.delete("e") == Deletion("e", True, "completed", False, None)


@pytest.mark.parametrize(("attached", "kept"), [(True, "p"), (False, None)])
async def test_attached_children_of_a_living_parent_are_kept(
    store: OpenStore, attached: bool, kept: str | None
) -> None:
    await register(store)
    await start(store, "p")
    await apply(store, child_of("p", waits=False, attached=attached))
    await claim(store)
    await end(store, "c")

    assert await store.delete("c") == Deletion("c", kept is None, "completed", False, kept)
    expired = await store.expire(now=NOW + 9 * DAY, limit=10)
    assert expired.deleted == 0
    assert (await store.execution("c") is None) == (kept is None)


async def test_who_has_still_to_cancel_its_children_is_kept(store: OpenStore) -> None:
    await register(store)
    await start(store, "p", retention=DAY)
    await apply(store, child_of("p", waits=False))
    await end(store, "p", status="failed")

    assert await store.delete("p") == Deletion("p", False, "failed", True, None)
    assert (await store.expire(now=NOW + 9 * DAY, limit=10)).deleted == 0
    while await store.cancel_orphans(now=NOW, limit=10):
        pass
    assert (await get(store, "c")).status == "cancelled"
    assert await store.delete("p") == Deletion("p", True, "failed", False, None)


async def test_children_outlive_a_deleted_parent_and_are_not_those_of_the_next(store: OpenStore) -> None:
    await register(store)
    await start(store, "p")
    await apply(store, child_of("p", waits=False))
    await end(store, "p")
    await store.delete("p")
    assert (await get(store, "c")).parent_id == "p"

    await start(store, "p")
    assert await apply(store, child_of("p", waits=False)) == [Exists("c", same=False)]
    await end(store, "p", status="failed")

    assert await store.cancel_orphans(now=NOW, limit=10) == []
    assert (await get(store, "c")).status == "queued"


async def test_nothing_is_written_for_a_deleted_execution(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await store.cancel("e", reason=None, now=NOW)
    await store.delete("e")

    assert await apply(store, step("e")) == [Refused("e")]
    assert await apply(store, EventSent("e", "paid", "1", "1", NOW), by=None) == [Unknown("e")]
    assert await store.everything("e") is None
    assert await apply(store, Triggered(new("e")), by=None) == [None]
    assert await store.steps("e") == []


# Retention


async def test_what_has_been_kept_for_long_enough_is_deleted(store: OpenStore) -> None:
    await register(store)
    await ended(store, "a", at=NOW, retention=DAY)
    await ended(store, "b", at=NOW, retention=2 * DAY)
    await ended(store, "for-ever", at=NOW)
    await start(store, "living", retention=DAY)

    assert await store.expire(now=NOW + DAY - 1, limit=10) == Expired(0, None, NOW + DAY)
    assert await store.expire(now=NOW + DAY, limit=10) == Expired(1, None, NOW + 2 * DAY)
    assert await exist(store) == {"b", "for-ever", "living"}
    assert await store.expire(now=NOW + 99 * DAY, limit=10) == Expired(1, None, None)
    assert await exist(store) == {"for-ever", "living"}


async def test_pages_pass_by_what_is_still_needed(store: OpenStore) -> None:
    await register(store)
    await start(store, "p")
    ids = [f"c{index}" for index in range(5)]
    await apply(store, *(child_of("p", id, path=id, waits=False) for id in ids))
    await claim(store)
    await end(store, *ids)
    await ended(store, "z1", "z2", retention=DAY, at=NOW + 3)

    pages: list[Expired] = []
    after: tuple[int, str] | None = None
    while not pages or after is not None:
        pages.append(await store.expire(now=NOW + 9 * DAY, limit=3, after=after))
        after = pages[-1].after

    assert [page.deleted for page in pages] == [0, 1, 1]
    assert await exist(store) == {"p", *ids}


async def test_a_page_of_large_executions_ends_sooner(store: OpenStore) -> None:
    await register(store)
    await start(store, "a", "b", "c", retention=DAY)
    for id in ("a", "b", "c"):
        await apply(store, *(step(id, path=str(index)) for index in range(1500)))
    await end(store, "a", "b", "c")

    first = await store.expire(now=NOW + 9 * DAY, limit=100)
    assert (first.deleted, first.after) == (2, (NOW + 3 + DAY, "b"))
    assert await store.expire(now=NOW + 9 * DAY, limit=100, after=first.after) == Expired(1, None, None)


async def test_a_direct_start_and_a_queued_one_keep_their_retention(store: OpenStore) -> None:
    await register(store)
    await start(store, "direct", retention=DAY)
    await queue(store, "queued", retention=2 * DAY)

    everything = [await store.everything(id) for id in ("direct", "queued")]

    assert [each and each.execution["retention"] for each in everything] == [DAY, 2 * DAY]
