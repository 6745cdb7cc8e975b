"""Without faults each body runs exactly once, however many processes look at the file."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.acceptance.harness import Site, check
from tests.acceptance.programs import share


@pytest.mark.parametrize("slow", ["", "owned", "claim", "load", "apply", "owned,claim,load"])
@pytest.mark.parametrize("workers", [1, 2])
def test_every_body_begins_once(site: Site, workers: int, slow: str) -> None:
    """Workers hear of each other's writes and compare what they own all the time, while they claim and finish.

    Late answers of the store widen the gaps between what a worker was told and what is so by then.
    """

    async def fill() -> None:
        for n in range(20):
            await share.one_step.trigger_many([n] * 5)
            await asyncio.sleep(0.01)

    site.prepare(share.app, nothing)
    for _ in range(workers):
        site.start_worker("share", PAUSE=0.02, SLOW=slow)
    site.as_client(share.app, fill)
    site.await_all_ended()

    begins = Counter(line.place for line in site.lines("begin"))
    assert len(begins) == 100
    assert begins.most_common(1)[0][1] == 1, [place for place, count in begins.items() if count > 1]
    assert site.value("SELECT MAX(epoch) FROM executions") == 1
    check(site)


def test_what_is_claimed_at_the_start_begins_at_once(site: Site) -> None:
    """A worker that starts claims and compares what it owns at the same moment."""
    for n in range(12):

        async def fill(n: int = n) -> None:
            await share.one_step.trigger(n, id=f"o-{n}")

        site.prepare(share.app, fill) if n == 0 else site.as_client(share.app, fill)
        worker = site.start_worker("share", PAUSE=0)
        running_at = site.lines("running")[-1].at
        line = site.await_line(lambda line, n=n: line.what == "begin" and line.execution == f"o-{n}", "it to begin", 3)
        assert line.at - running_at < 500_000
        site.until(lambda: not site.living(), "it to end", 3)
        worker.kill()
    check(site)


async def nothing() -> None:
    pass
