"""What the tests of the public API share."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from stepwell import App

START = datetime(2030, 1, 1, tzinfo=UTC)
"""What the clock of the test kit says at first."""


@dataclass
class Order:
    id: str
    total: int


@asynccontextmanager
async def open_client(app: App) -> AsyncGenerator[App]:
    """The app on a database of its own in memory, without a worker: what is triggered stays queued."""
    app.use_database("sqlite://")
    async with app.connected():
        yield app


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
