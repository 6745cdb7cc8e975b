"""What docs/steps.md shows runs, and it speaks of every verb."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stepwell import RetryPolicy, Step
from stepwell._engine.emit import ROOM_VALUES
from stepwell._engine.resting import STAYS_IN_MEMORY_US
from stepwell._engine.transaction import LONGEST_US
from stepwell._worker import pulse
from stepwell.clock import SystemClock

PAGE = Path(__file__).parents[2] / "docs" / "steps.md"
TEXT = PAGE.read_text()
WORDS = " ".join(TEXT.split())


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """The code of the page as one module."""
    module = ModuleType("steps_page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "steps_page", module)
        for match in re.finditer(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE):
            lines = TEXT.count("\n", 0, match.start(1))
            exec(compile("\n" * lines + match[1], PAGE, "exec"), vars(module))  # noqa: S102
        with module.app.overridden(database="sqlite://", clock=SystemClock(), stubs={}):
            yield module


@pytest.mark.parametrize(
    ("workflow", "input", "output"),
    [
        ("basics", "abc", 3),
        ("numbers", 5, [5, 25]),
        ("patient", None, "fast"),
        ("parent", None, 42),
        ("plain", "abcd", 4),
    ],
)
def test_the_workflows_of_the_page_give(page: Any, workflow: str, input: object, output: object) -> None:
    assert page.app.execute(getattr(page, workflow), input) == output


def test_every_verb_is_there() -> None:
    verbs = {
        name
        for base in Step.__mro__
        for name, value in vars(base).items()
        if not name.startswith("_") and not isinstance(value, property)
    }

    assert {verb for verb in verbs if not re.search(rf"\b(step\.)?{verb}\b", TEXT)} == set()


def test_links_lead_to_headings() -> None:
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    readme = (PAGE.parents[1] / "README.md").read_text()
    links = re.findall(r"\]\(#([^)]+)\)", TEXT) + re.findall(r"\]\(docs/steps\.md#([^)]+)\)", readme)

    assert links
    assert set(links) - headings == set()


def test_the_numbers_are_right() -> None:
    policy = RetryPolicy()

    assert (policy.retries, policy.delay, policy.backoff, policy.max_delay) == (3, 1, "exponential", 30)
    assert "| 1 s, `exponential`, 30 s |" in TEXT
    assert (STAYS_IN_MEMORY_US, "wait of more than 5 seconds" in WORDS) == (5_000_000, True)
    assert (LONGEST_US, "gets 5 seconds at most" in WORDS) == (5_000_000, True)
    assert f"With {ROOM_VALUES} values (or 1 MiB)" in WORDS
    assert (pulse.WARN_SECONDS, pulse.STUCK_SECONDS) == (1.0, 300.0)
