"""Short ways to make what the store takes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from stepwell.clock import ManualClock, to_us
from stepwell.store.open import OpenStore
from stepwell.store.records import Claimed, ExecutionRow, WorkerRow
from stepwell.store.transitions import (
    Emitted,
    Finished,
    NewExecution,
    Parked,
    StepFinished,
    StepRetrying,
    StepStarted,
    StepWaiting,
    Transition,
    Triggered,
    Verdict,
)

NOW = to_us(datetime(2030, 1, 1, tzinfo=UTC))
SECOND = 1_000_000
INPUT = '{"n":1}'


class SteppingClock(ManualClock):
    """Uptime runs as it does, and can be moved ahead."""

    def __init__(self) -> None:
        super().__init__()
        self._skipped = 0

    def uptime(self) -> int:
        return super().uptime() + self._skipped

    def skip(self, seconds: float) -> None:
        self._skipped += int(seconds * SECOND)


class FakePulse:
    def __init__(self, *, beating: bool = True) -> None:
        self.beating = beating
        self.broken = False
        self.asked = 0
        self.is_lost = False

    def renewed(self, lease_until: int) -> None:
        self.lease_until = lease_until

    def is_beating(self) -> bool:
        self.asked += 1
        if self.broken:
            raise RuntimeError("the pulse is broken")
        return self.beating

    def lost(self) -> None:
        self.is_lost = True


def worker(id: str = "w", *, boot_id: str = "boot") -> WorkerRow:
    return WorkerRow(id, "host", boot_id, os.getpid(), "then", "app", "1", 100, NOW)


def new(id: str = "e", workflow: str = "wf", **fields: Any) -> NewExecution:
    return replace(NewExecution(id, workflow, INPUT, NOW), **fields)


def step(id: str = "e", path: str = "a", epoch: int = 1, **fields: Any) -> StepFinished:
    done = StepFinished(id, epoch, 1, path, 1, "run", "completed", 1, "[]", "1", None, NOW + 1, NOW + 2)
    return replace(done, **fields)


def started(id: str = "e", path: str = "a", epoch: int = 1, attempt: int = 1) -> StepStarted:
    return StepStarted(id, epoch, 1, path, 1, "run", attempt, "[]", NOW + 1)


def waiting(
    id: str = "e", path: str = "s", epoch: int = 1, *, wake_at: int | None = NOW + SECOND, idle: bool = False
) -> StepWaiting:
    return StepWaiting(id, epoch, 1, path, 1, "sleep", "sleeping", None, NOW + 1, wake_at, idle)


def retrying(id: str = "e", path: str = "a", epoch: int = 1, attempt: int = 1, *, idle: bool = False) -> StepRetrying:
    return StepRetrying(id, epoch, 1, path, 1, attempt, "[]", '"boom"', NOW + 1, NOW + 2, NOW + SECOND, idle)


def emitted(*values: str, id: str = "e", epoch: int = 1, **fields: Any) -> Emitted:
    return replace(Emitted(id, epoch, 1, "a", "s", 1, 0, values, NOW + 1), **fields)


def parked(id: str = "e", epoch: int = 1, status: str = "sleeping", wake_at: int | None = NOW + SECOND) -> Parked:
    return Parked(id, epoch, status, wake_at, "s")


def finished(id: str = "e", epoch: int = 1, status: str = "completed", **fields: Any) -> Finished:
    return replace(Finished(id, epoch, 1, status, '"done"', None, None, NOW + 3), **fields)


async def register(store: OpenStore, id: str = "w", **fields: Any) -> FakePulse:
    pulse = FakePulse()
    await store.register(worker(id, **fields), pulse)
    return pulse


async def apply(store: OpenStore, *batch: Transition, by: str | None = "w", fence: int = 0) -> list[Verdict]:
    return (await store.apply(batch, by, fence)).verdicts


async def start(store: OpenStore, *ids: str, by: str = "w", **fields: Any) -> None:
    """Executions that `by` owns at epoch 1."""
    verdicts = await apply(store, *(Triggered(new(id, owner=by, **fields)) for id in ids), by=by)
    assert verdicts == [None] * len(ids)


async def queue(store: OpenStore, *ids: str, **fields: Any) -> None:
    verdicts = await apply(store, *(Triggered(new(id, **fields)) for id in ids), by=None)
    assert verdicts == [None] * len(ids)


async def claim(
    store: OpenStore, limit: int = 100, *, by: str = "w", now: int = NOW, suspects: int = 1, workflow: str = "wf"
) -> list[Claimed]:
    return (await store.claim(by, [workflow], limit, suspects=suspects, now=now)).claimed


async def get(store: OpenStore, id: str = "e") -> ExecutionRow:
    row = await store.execution(id)
    assert row is not None
    return row


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for what no event tells: something in another thread."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
