from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from stepwell.store.open import OpenStore, open_store
from tests.store.builders import SteppingClock


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'test.db'}"


@pytest.fixture(params=["sqlite-memory", "sqlite-file"])
async def store(
    request: pytest.FixtureRequest, anyio_backend: str, clock: SteppingClock, file_url: str
) -> AsyncGenerator[OpenStore]:
    """Every store, one after the other; a further one is a further parameter here."""
    urls = {"sqlite-memory": "sqlite://", "sqlite-file": file_url}
    async with open_store(urls[request.param], clock=clock) as opened:
        yield opened
