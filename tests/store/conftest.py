from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from stepwell.store.coded import CodedStore
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


class Noise:
    """A codec that is async and gives something else each time."""

    async def encode(self, data: bytes) -> bytes:
        await asyncio.sleep(0)
        key = secrets.token_bytes(1)
        return key + bytes(byte ^ key[0] for byte in data)

    async def decode(self, data: bytes) -> bytes:
        await asyncio.sleep(0)
        return bytes(byte ^ data[0] for byte in data[1:])


@pytest.fixture(params=["sqlite-memory", "sqlite-file", "coded"])
async def store(
    request: pytest.FixtureRequest, anyio_backend: str, clock: SteppingClock, file_url: str
) -> AsyncGenerator[OpenStore]:
    """Every store, one after the other; a further one is a further parameter here."""
    urls = {"sqlite-memory": "sqlite://", "sqlite-file": file_url, "coded": "sqlite://"}
    async with open_store(urls[request.param], clock=clock) as opened:
        yield CodedStore(opened, Noise(), clock) if request.param == "coded" else opened
