"""What docs/export.md says of the document is what an export has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest

from stepwell import App, Step
from stepwell.testing import sandbox

DOCS = (Path(__file__).parents[2] / "docs" / "export.md").read_text()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def fields(value: Any) -> set[str]:
    """All names of fields, but for what is inside of payloads."""
    if isinstance(value, list):
        return {name for item in cast("list[Any]", value) for name in fields(item)}
    if isinstance(value, dict):
        document = cast("dict[str, Any]", value)
        return {*document, *(name for item in document.values() for name in fields(item))}
    return set()


@pytest.mark.anyio
async def test_every_field_is_described() -> None:
    app = App()

    async def fail() -> None:
        raise ValueError("no luck")

    @app.workflow(tags=["eu"])
    async def flow(step: Step) -> None:
        await step.listen("paid")
        await step.emit("news", 1)
        await step.run("fail", fail, retries=0)

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await execution.send_event("paid")
        await tester.settle()
        document = await execution.export()

    assert document["events"]
    assert document["streams"]
    assert document["runs"][0]["steps"][1]["attempts"]
    assert fields(document) - set(re.findall(r"`([a-z_]+)`", DOCS)) == set()
