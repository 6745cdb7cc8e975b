"""What the tests of all examples need: their modules by bare names, as from a script, and asyncio for `async def test_`."""

import sys
from pathlib import Path

import pytest

sys.path.extend(str(folder) for folder in Path(__file__).parent.iterdir() if (folder / "stepwell.toml").exists())


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
