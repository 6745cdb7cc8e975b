"""What is still queued of an execution that was taken away is not sent under the new fence."""

from __future__ import annotations

import pytest

from stepwell._engine.journal import Journal
from stepwell.clock import ManualClock
from stepwell.store.open import open_store
from stepwell.store.transitions import Refused
from tests.store.builders import NOW, get, register, start, step

pytestmark = pytest.mark.anyio


async def test_it_is_refused_before_it_is_sent() -> None:
    async with open_store("sqlite://", clock=ManualClock()) as store:
        await register(store)
        await start(store, "e", "other")
        journal = Journal(store)
        journal.worker_id = "w"
        await store.cancel("e", reason=None, now=NOW)
        mine, others = journal.append(step("e")), journal.append(step("other"))

        journal.lose("e", 1)
        journal.fence = 1

        assert (await mine, await others) == (Refused("e"), None)
        assert (await store.steps("e"), len(await store.steps("other"))) == ([], 1)
        assert (await get(store)).status == "cancelled"
        await journal.close()
