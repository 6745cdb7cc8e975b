"""The small recorded steps: pauses, milestones, and values that are read once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from stepwell._engine.call import Call, Work
from stepwell._engine.outcome import Outcome
from stepwell.store.records import HistoryRow
from stepwell.store.transitions import StepFinished, StepWaiting

_NOTHING: Final = Outcome("completed", "null")


class SleepWork:
    """`step.sleep` and `step.sleep_until`: the wake-up time is stored before anything waits, and never changes."""

    kind = "sleep"

    def __init__(self, input: str, wake_at: Callable[[int], int]) -> None:
        self._input = input
        self._wake_at = wake_at

    def value_of(self, call: Call, text: str) -> object:
        return None

    def same_as(self, other: Work) -> bool:
        return isinstance(other, SleepWork) and other._input == self._input

    async def perform(self, call: Call, record: HistoryRow | None) -> Outcome:
        runner = call.runner
        call.input = self._input
        now = runner.clock.now()
        if record is not None and record.wake_at is not None:
            call.started_at = record.started_at
            wake_at = record.wake_at
            if wake_at > now:
                runner.idle_again(wake_at, call.path)
        else:
            call.started_at = now
            wake_at = self._wake_at(now)
            if wake_at > now:
                await runner.record(
                    StepWaiting(
                        runner.id,
                        runner.epoch,
                        runner.run,
                        call.path,
                        call.seq,
                        "sleep",
                        "sleeping",
                        self._input,
                        now,
                        wake_at,
                        runner.is_idle(),
                    )
                )
        if wake_at > runner.clock.now():
            await runner.wait_until(wake_at, call)
        note_finished(call, "sleep", None)
        return _NOTHING


class ValueWork:
    """`step.now` and `step.progress`: a value that is read once and recorded."""

    def __init__(self, kind: str, read: Callable[[Call], object], value_of: Callable[[object], object]) -> None:
        self.kind = kind
        self._read = read
        self._value_of = value_of

    def value_of(self, call: Call, text: str) -> object:
        return self._value_of(json.loads(text))

    def same_as(self, other: Work) -> bool:
        return other.kind == self.kind

    async def perform(self, call: Call, record: HistoryRow | None) -> Outcome:
        runner = call.runner
        call.started_at = runner.clock.now()
        text = json.dumps(self._read(call))
        await runner.record(finished(call, self.kind, text))
        return Outcome("completed", text)


def finished(call: Call, kind: str, output: str | None, error: str | None = None) -> StepFinished:
    """The end of a step that is not a body."""
    runner = call.runner
    status = "completed" if error is None else "failed"
    return StepFinished(
        runner.id,
        runner.epoch,
        runner.run,
        call.path,
        call.seq,
        kind,
        status,
        call.attempt,
        call.input,
        output,
        error,
        call.started_at,
        runner.clock.now(),
    )


def note_finished(call: Call, kind: str, output: str | None) -> None:
    """Record the end of a wait. Nobody needs to wait for it: what follows is written after it."""
    call.runner.note(finished(call, kind, output))
