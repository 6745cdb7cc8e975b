"""What every store promises about streams, to the engine and to those who follow."""

from __future__ import annotations

import pytest

from stepwell.store.open import OpenStore
from stepwell.store.protocol import STREAM_PAGE_CHARACTERS as PAGE_CHARACTERS
from stepwell.store.protocol import STREAM_PAGE_ROWS as PAGE_ROWS
from stepwell.store.records import EmittedTake, StreamPage, StreamRow, StreamWait
from stepwell.store.transitions import Refused, Released, Triggered
from tests.store.builders import NOW, apply, claim, emitted, finished, get, new, queue, register, start, step

pytestmark = pytest.mark.anyio


async def rows(store: OpenStore, id: str = "e", name: str = "s", after: int = 0) -> list[tuple[object, ...]]:
    page = await store.stream(id, name, after)
    assert page is not None
    return [tuple(row) for row in page.rows]


async def test_values_get_offsets_without_gaps_in_the_order_of_writing(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", "f")

    batch = [emitted("1", "2"), emitted("3", path="b"), emitted("9", id="f"), emitted("8", stream="t")]
    assert await apply(store, *batch) == [None] * 4
    await apply(store, emitted("4", n=2))

    assert await rows(store) == [(1, "1", 1), (2, "2", 1), (3, "3", 1), (4, "4", 1)]
    assert await rows(store, "f") == [(1, "9", 1)]
    assert await rows(store, name="t") == [(1, "8", 1)]
    assert await rows(store, after=2) == [(3, "3", 1), (4, "4", 1)]


async def test_values_sent_again_change_nothing(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    batch = [emitted("1", "2"), emitted("3", n=2), emitted("7", take=2)]

    assert await apply(store, *batch) == [None] * 3
    assert await apply(store, *batch) == [None] * 3

    assert await rows(store) == [(1, "1", 1), (2, "2", 1), (3, "3", 1), (4, "7", 2)]


async def test_values_and_the_end_in_one_batch(store: OpenStore) -> None:
    await register(store)

    await apply(store, Triggered(new("e", owner="w")), emitted("1"), step("e"), finished("e"))

    assert await store.stream("e", "s", 0) == StreamPage([StreamRow(1, "1", 1)], more=False, ended=True)


@pytest.mark.guarantee("G4")
async def test_values_of_a_lost_execution_are_refused(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", "f")
    await apply(store, Released("e", 1, NOW))
    [taken] = await claim(store)

    verdicts = await apply(store, emitted("1"), emitted("2", id="f"), emitted("3", epoch=taken.epoch), fence=-1)

    # Those of the later claim stand: what is left of the old one may be in the same batch.
    assert verdicts == [Refused("e"), None, None]
    assert await rows(store) == [(1, "3", 1)]


async def test_values_after_the_end_are_refused(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")

    assert await apply(store, finished("e"), emitted("1")) == [None, Refused("e")]
    assert await rows(store) == []


async def test_cancelled_execution_keeps_its_values_and_takes_no_more(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, emitted("1"))
    await store.cancel("e", reason=None, now=NOW)

    assert await apply(store, emitted("2", n=1)) == [Refused("e")]
    assert await store.stream("e", "s", 0) == StreamPage([StreamRow(1, "1", 1)], more=False, ended=True)


async def test_page_tells_of_more_of_the_end_and_of_nothing(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, emitted(*map(str, range(PAGE_ROWS + 1))))

    first = await store.stream("e", "s", 0)
    assert first is not None
    assert (len(first.rows), first.more, first.ended) == (PAGE_ROWS, True, False)
    second = await store.stream("e", "s", first.rows[-1].offset)
    assert second == StreamPage([StreamRow(PAGE_ROWS + 1, str(PAGE_ROWS), 1)], more=False, ended=False)
    assert await store.stream("e", "none", 0) == StreamPage([], more=False, ended=False)
    assert await store.stream("nowhere", "s", 0) is None


async def test_page_of_large_values_ends_sooner(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    large = f'"{"x" * (PAGE_CHARACTERS // 2)}"'
    await apply(store, emitted(large, large, large))

    page = await store.stream("e", "s", 0)

    assert page is not None
    assert (len(page.rows), page.more) == (2, True)


async def test_news_are_values_and_ends(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", "ended")
    await queue(store, "queued")
    await apply(store, emitted("1", "2"), finished("ended"))
    waits = [
        StreamWait("e", "s", 1),
        StreamWait("e", "s", 2),
        StreamWait("e", "t", 0),
        StreamWait("ended", "s", 0),
        StreamWait("queued", "s", 0),
        StreamWait("nowhere", "s", 0),
    ]

    assert sorted(await store.stream_news(waits)) == [0, 3, 5]
    assert await store.stream_news([]) == []


async def test_last_take_of_a_place(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, emitted("1", "2"), emitted("3", "4", take=2), emitted("5", path="b", take=7))

    assert await store.emitted("e", 1, "a", "s") == EmittedTake(2, ["3", "4"])
    assert await store.emitted("e", 1, "a", "s", take=2, start=1) == EmittedTake(2, ["4"])
    assert await store.emitted("e", 1, "a", "s", take=1) == EmittedTake(1, ["1", "2"])
    assert await store.emitted("e", 1, "a", "t") == EmittedTake(0, [])
    assert await store.emitted("nowhere", 1, "a", "s") == EmittedTake(0, [])


async def test_takes_go_on_counting_in_a_new_run(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, emitted("1"), emitted("2", take=2))

    assert await store.emitted("e", 2, "a", "s") == EmittedTake(2, [])


async def test_values_of_a_direct_start_by_a_worker_that_is_gone_are_refused(store: OpenStore) -> None:
    assert await apply(store, Triggered(new("e", owner="w")), emitted("1"), by="w") == [None, Refused("e")]
    assert (await get(store)).status == "queued"
