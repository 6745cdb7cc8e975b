"""What the tests of the engine share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stepwell import Execution
from stepwell.testing import Tester


class Ledger(list[str]):
    """Side effects in the order in which they happened. `note` and `note_in_thread` are bodies of steps."""

    async def note(self, entry: str) -> str:
        self.append(entry)
        return entry

    def note_in_thread(self, entry: str) -> str:
        self.append(entry)
        return entry


def in_memory(tester: Tester) -> set[str]:
    """The ids of the executions that are in the worker's memory."""
    return set(tester.worker.residents)


async def statuses(execution: Execution[Any]) -> dict[str, str]:
    """The status of each recorded step by its path."""
    return {step.path: step.status for step in await execution.steps()}


async def until(happened: Callable[[], object]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(5):
        while not happened():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.001)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def short_unwinding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Abandon user code that does not end after 0.2 s instead of 10 s."""
    monkeypatch.setattr("stepwell._engine.unwinding.UNWIND_SECONDS", 0.2)


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give workflow code beside a long wait 20 ms instead of 1 s to reach its next step."""
    monkeypatch.setattr("stepwell._engine.resting.PARK_GRACE_SECONDS", 0.02)
