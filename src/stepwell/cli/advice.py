"""What people can do about an execution that does not go on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Final

from stepwell import ExecutionInfo, StepInfo
from stepwell.cli.console import paint

_MOST: Final = 4


def advice(info: ExecutionInfo, steps: Sequence[StepInfo], now: datetime) -> list[str]:
    """Commands for people, each with what it does; none for what runs, or has ended as it should."""
    return [
        f"{paint(command)}  {paint(f'({effect})', 'dim')}"
        for command, effect in islice(_advice(info, steps, now), _MOST)
    ]


def _advice(info: ExecutionInfo, steps: Sequence[StepInfo], now: datetime) -> Iterator[tuple[str, str]]:
    on, id = "stepwell executions", shlex.quote(info.id)
    if info.status == "failed":
        yield f"{on} retry {id}", "does again what failed, and keeps every other result"
    elif info.status == "paused":
        yield f"{on} resume {id}", "lets it go on"
    elif _wants_a_worker(info, now):
        yield "stepwell worker", f"executes; one must run that knows {info.workflow!r}"
    elif not info.is_terminal:
        yield from _to_end_waits(f"{on} wake {id}", steps, now)
        for step in steps:
            if step.status == "listening" and step.awaits is not None:
                if step.kind == "listen":
                    yield f"{on} send-event {id} {shlex.quote(step.awaits)} …", f"{step.path!r} waits for it"
                else:
                    yield f"{on} describe {shlex.quote(step.awaits)}", f"{step.path!r} waits for its end"


def _to_end_waits(wake: str, steps: Sequence[StepInfo], now: datetime) -> Iterator[tuple[str, str]]:
    """One `wake` ends all waits that are open: the first of them is named."""
    waits = [
        step
        for step in steps
        if step.status in ("retrying", "sleeping") and step.wake_at is not None and step.wake_at > now
    ]
    if waits:
        first = min(waits, key=lambda step: step.status)  # A backoff before a sleep.
        does = f"tries {first.path!r} again now" if first.status == "retrying" else f"ends {first.path!r} now"
        yield wake, does + (f", and {len(waits) - 1} more" if len(waits) > 1 else "")


def _wants_a_worker(info: ExecutionInfo, now: datetime) -> bool:
    """Whether its time has come, and nobody has taken it up."""
    due = info.wake_at is None or info.wake_at <= now
    return due and (
        (info.status == "queued" and info.waiting_for is None)
        or (info.status == "sleeping" and info.wake_at is not None)
    )
