"""Events, children and whom they wake: what every store must do with them."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stepwell.store.open import OpenStore
from stepwell.store.transitions import (
    ChildAwaited,
    ChildStarted,
    EventSent,
    Exists,
    Listened,
    NewExecution,
    Over,
    Received,
    Refused,
    Unknown,
)
from tests.store.builders import INPUT, NOW, SECOND, apply, claim, finished, get, new, parked, queue, register, start

pytestmark = pytest.mark.anyio


def event(id: str = "e", name: str = "go", payload: str = '"hello"', key: str = "k1") -> EventSent:
    return EventSent(id, name, payload, key, NOW + 5)


def listened(id: str = "e", path: str = "l", epoch: int = 1, **fields: Any) -> Listened:
    first = Listened(id, epoch, 1, path, 1, None, "go", NOW + 1, NOW + 6, None, True, None, False)
    return replace(first, **fields)


def child(id: str = "c", parent: str = "e", path: str = "work", **fields: Any) -> NewExecution:
    return new(id, parent_id=parent, parent_run=1, parent_path=path, attached=True, wake_at=NOW, **fields)


def child_started(id: str = "c", parent: str = "e", *, waits: bool = True, **fields: Any) -> ChildStarted:
    kind = "execute_workflow" if waits else "start_workflow"
    return ChildStarted(parent, 1, 1, "work", 1, kind, None, NOW + 1, child(id, parent, **fields), waits, False)


def awaited(id: str = "c", by: str = "e", epoch: int = 1) -> ChildAwaited:
    return ChildAwaited(by, epoch, 1, "wait", 1, "wait_for_workflow", None, NOW + 1, id, False)


async def statuses(store: OpenStore, id: str = "e") -> dict[str, tuple[str, str | None]]:
    return {row.path: (row.status, row.output) for row in await store.steps(id)}


async def test_an_event_to_nobody_and_to_what_is_over_is_not_kept(store: OpenStore) -> None:
    await register(store)
    await start(store, "done")
    await apply(store, finished("done"))

    assert await apply(store, event("nobody"), by=None) == [Unknown("nobody")]
    assert await apply(store, event("done"), by=None) == [Over("done", "completed", None)]
    assert await store.arrived([("done", "go"), ("nobody", "go")]) == []


async def test_the_same_event_counts_once_and_its_id_belongs_to_it(store: OpenStore) -> None:
    await queue(store, "e")

    assert await apply(store, event(), event(), event(key="k2", name="other"), by=None) == [None, None, None]
    assert await apply(store, event(name="other"), by=None) == [Exists("e", same=False)]
    assert await store.arrived([("e", "go"), ("e", "other"), ("e", "nothing")]) == [("e", "go"), ("e", "other")]


async def test_a_step_receives_the_oldest_event_once(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, event(payload="1"), event(payload="2", key="k2"), by=None)

    assert await apply(store, listened()) == [Received("1")]
    # Sent again after an unknown commit: the same answer, and nothing more is taken.
    assert await apply(store, listened()) == [Received("1")]
    assert await apply(store, listened(path="m")) == [Received("2")]
    assert await apply(store, listened(path="n")) == [None]
    assert await statuses(store) == {"l": ("completed", "1"), "m": ("completed", "2"), "n": ("listening", None)}


async def test_who_may_not_take_waits_and_who_is_too_late_takes_what_is_there(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, event(payload="1"), by=None)

    assert await apply(store, listened(path="second", take=False)) == [None]
    assert await apply(store, listened(path="late", error='"too late"')) == [Received("1")]
    assert await apply(store, listened(path="later", error='"too late"', wake_at=NOW)) == [None]
    assert await statuses(store) == {
        "second": ("listening", None),
        "late": ("completed", "1"),
        "later": ("failed", None),
    }


async def test_an_event_makes_a_parked_execution_claimable(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, listened(), parked("e", status="listening", wake_at=None))
    assert await claim(store, now=NOW + 100 * SECOND) == []

    await apply(store, event(name="other", key="k0"), by=None)
    assert await claim(store, now=NOW + 100 * SECOND) == []
    await apply(store, event(), by=None)
    assert [claimed.id for claimed in await claim(store, now=NOW + 5)] == ["e"]


@pytest.mark.guarantee("G7")
async def test_an_event_that_comes_while_its_execution_parks_is_seen_by_who_parks(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", "f")
    await apply(store, listened("e"), listened("f"))
    await apply(store, event("e"), by=None)  # nobody to wake: the execution has an owner

    applied = await store.apply([parked("e", status="listening", wake_at=None)], "w", 0)
    assert (applied.verdicts, applied.woken) == ([None], True)
    applied = await store.apply([parked("f", status="listening", wake_at=None)], "w", 0)
    assert (applied.verdicts, applied.woken) == ([None], False)
    assert [claimed.id for claimed in await claim(store)] == ["e"]


async def test_a_child_and_its_step_are_one_transaction_and_sent_again_they_are_the_same(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")

    assert await apply(store, child_started()) == [None]
    assert await apply(store, child_started()) == [None]
    row = await get(store, "c")
    assert (row.status, row.parent_id, row.input) == ("queued", "e", INPUT)
    assert await statuses(store) == {"work": ("listening", None)}
    assert [each.id for each in await store.children("e")] == ["c"]


async def test_a_child_that_is_not_waited_for_completes_its_step(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")

    assert await apply(store, child_started(waits=False)) == [None]
    assert await statuses(store) == {"work": ("completed", '"c"')}


async def test_an_id_that_is_taken_by_another_is_refused(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", "f")
    await queue(store, "c")

    assert await apply(store, child_started("c")) == [Exists("c", same=False)]
    await apply(store, child_started("d", "f"))
    assert await apply(store, child_started("d", "e")) == [Exists("d", same=False)]
    assert await statuses(store) == {}


async def test_a_stale_worker_starts_no_child_and_receives_no_event(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, event(), by=None)
    await store.cancel("e", reason=None, now=NOW + 1)

    assert await apply(store, child_started(), listened()) == [Refused("e"), Refused("e")]
    assert await store.execution("c") is None


@pytest.mark.parametrize("status", ["completed", "failed"])
async def test_the_end_of_a_child_wakes_its_parent_outside_of_memory(store: OpenStore, status: str) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, child_started(), parked("e", status="listening", wake_at=None))
    await claim(store)
    error = '"bad"' if status == "failed" else None

    applied = await store.apply([finished("c", status=status, error=error)], "w", 0)

    assert applied.woken
    assert [claimed.id for claimed in await claim(store, now=NOW + 10)] == ["e"]
    text = '"bad"' if status == "failed" else '"done"'
    assert await apply(store, awaited("c", "e", epoch=2)) == [Over("c", status, text)]


async def test_a_parent_that_parks_after_the_end_of_its_child_is_claimable_at_once(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, child_started())
    await claim(store)
    await apply(store, finished("c"))

    assert (await store.apply([parked("e", status="listening", wake_at=None)], "w", 0)).woken
    assert [claimed.id for claimed in await claim(store)] == ["e"]


async def test_waiting_for_nobody(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    assert await apply(store, awaited("nobody")) == [Unknown("nobody")]


@pytest.mark.parametrize("how", ["failed", "cancelled", "aborted", "cancel"])
async def test_attached_children_are_cancelled_after_a_bad_end_however_deep(store: OpenStore, how: str) -> None:
    await register(store)
    await start(store, "e")
    detached = replace(child("d"), attached=False)
    await apply(store, child_started(), replace(child_started(), path="other", child=detached))
    await claim(store)
    await apply(store, child_started("g", "c"))
    if how == "cancel":
        await store.cancel("e", reason=None, now=NOW + 1)
    else:
        await apply(store, finished("e", status=how))

    cancelled: list[str] = []
    while taken := await store.cancel_orphans(now=NOW + 2, limit=10):
        cancelled += [each.execution_id for each in taken]

    assert cancelled == ["c", "g"]
    assert [(await get(store, id)).status for id in ("c", "g", "d")] == ["cancelled", "cancelled", "running"]
    assert (await get(store, "c")).reason == "its parent e has ended"


async def test_children_of_a_completed_parent_go_on(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, child_started())
    await apply(store, finished("e"))

    assert await store.cancel_orphans(now=NOW + 2, limit=10) == []
    assert (await get(store, "c")).status == "queued"
