"""Streams over kills: a follower in another process misses nothing, and sees where a body begins anew."""

from __future__ import annotations

import pytest

from stepwell import StreamItem
from tests.acceptance.harness import Process, Site, check
from tests.acceptance.programs import talk
from tests.acceptance.programs.talk import ALL, COMMON


@pytest.mark.guarantee("G3")
@pytest.mark.guarantee("G9")
def test_a_follower_sees_every_value_over_kills(site: Site) -> None:
    """The first worker dies while it says what all say, the second while it says something of its own."""

    async def fill() -> None:
        await talk.talking.trigger(id="t")

    async def follow() -> list[StreamItem]:
        workers: list[Process] = [site.start("talk")]
        kills = [COMMON // 2, COMMON + 20]
        items: list[StreamItem] = []
        async for item in talk.app.get_execution("t").stream("words"):
            items.append(item)
            if kills and item.offset >= kills[0]:
                kills.pop(0)
                workers[-1].kill()
                workers.append(site.start("talk"))
        return items

    site.prepare(talk.app, fill)
    items = site.as_client(talk.app, follow)
    site.await_all_ended()

    check(site)
    assert [item.offset for item in items] == list(range(1, len(items) + 1))
    pids = [line.pid for line in site.lines("begin")]
    assert len(pids) == 3
    common = [str(number) for number in range(COMMON)]
    first = [item.value for item in items if item.take == 1]
    cut = len(first) - 2 - COMMON
    assert first == ["begin", *common, *(f"{COMMON + n} of {pids[1]}" for n in range(cut)), "end"]
    assert 0 < cut < ALL - COMMON
    own = [f"{number} of {pids[2]}" for number in range(COMMON, ALL)]
    assert [item.value for item in items if item.take == 2] == common + own
