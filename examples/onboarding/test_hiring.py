"""How to test workflows that start others: they all run in the sandbox."""

from pathlib import Path

import hiring
import pytest
from hiring import Person, app, onboarding

from stepwell.testing import sandbox

ADA = Person("ada")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the deeds of this test are written."""
    monkeypatch.setattr(hiring, "FOLDER", tmp_path)
    return tmp_path


async def test_things_are_procured_side_by_side_and_a_laptop_is_lent() -> None:
    async with sandbox(app) as tester:
        execution = await onboarding.trigger(ADA)
        await tester.advance("2 days")

        assert await execution.result() == ["hand mailbox to ada", "hand badge to ada", "lend a laptop to ada"]
        children = sorted((child.workflow, child.status) for child in await execution.children())
        assert children == [
            ("procurement", "completed"),
            ("procurement", "completed"),
            ("procurement", "failed"),
            ("survey", "sleeping"),
        ]


async def test_who_does_not_come_gets_nothing_but_the_survey(folder: Path) -> None:
    async with sandbox(app) as tester:
        execution = await onboarding.trigger(ADA)
        await tester.advance("1 day")
        await execution.cancel("she has found something else")
        await tester.advance("90 days")

        deeds = (folder / "deeds.log").read_text().splitlines()
        assert "hand badge to ada" not in deeds
        assert deeds[-1] == "ask ada how it went"
