"""What the tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
    return set(tester._worker.residents)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def short_unwinding(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Abandon user code that does not end after 0.2 s instead of 10 s."""
    monkeypatch.setattr("stepwell._engine.runner.UNWIND_SECONDS", 0.2)
    yield


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give workflow code beside a long wait 20 ms instead of 1 s to reach its next step."""
    monkeypatch.setattr("stepwell._engine.runner.PARK_GRACE_SECONDS", 0.02)
    yield
