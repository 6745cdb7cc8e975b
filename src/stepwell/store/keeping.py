"""Which recorded steps a new run keeps: the same rule for every store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from stepwell.types import TERMINAL

_CLEANING_UP: Final = ("#undo", "#on_error")
_UNDO: Final = "#undo/"


class RecordedStep(NamedTuple):
    """What the rule looks at. `number` counts up in the order of the first records of the steps of a run.

    `child` and `child_status` are of the attached child that the step has started, if it is one of this execution's.
    """

    number: int
    path: str
    kind: str
    status: str
    started_at: int
    finished_at: int | None
    child: str | None
    child_status: str | None


class Kept(NamedTuple):
    """The numbers of the steps to keep, in order, and the living children that they have started."""

    numbers: list[int]
    children: list[str]


def kept_steps(steps: Sequence[RecordedStep], before: RecordedStep | None, *, ended_badly: bool) -> Kept:
    """Choose what a new run keeps of the current one.

    With `before` that is what was recorded before this step, failures included; without it (a retry) every result, wherever
    it stands. Never: what is open or cancelled, what cleaned up, and what was undone, with the steps around and inside it,
    for its effects are gone. The body of a kept step does not run again, so whatever is recorded inside it stays with it.

    Args:
        steps: Of the current run.
        before: One of them; neither the steps around nor those inside it are kept.
        ended_badly: The run failed, was cancelled or aborted: children that still live are about to be cancelled.
    """
    undone = {step.path.removeprefix(_UNDO) for step in steps if step.path.startswith(_UNDO) and _is_done(step)}
    undone.update(step.path for step in steps if _has_lost_its_child(step, before, ended_badly))
    torn = undone.union(*(_above(path) for path in undone))

    def stays(step: RecordedStep) -> bool:
        if step.path in torn or any(path in undone for path in _above(step.path)):
            return False
        return _is_done(step) if before is None else _stands_before(step, before)

    ended = [step for step in steps if step.finished_at is not None and not _cleans_up(step)]
    roots = {step.path for step in ended if stays(step)}
    kept = [step for step in ended if step.path in roots or not roots.isdisjoint(_above(step.path))]
    kept.sort()
    living = [step.child for step in kept if step.child is not None and step.child_status not in TERMINAL]
    return Kept([step.number for step in kept], living)


def _stands_before(step: RecordedStep, before: RecordedStep) -> bool:
    if step.number >= before.number or not (_is_done(step) or step.status == "failed"):
        return False
    if step.path in _above(before.path) or before.path in _above(step.path):
        return False
    # A deadline stands around other steps. If it was decided later, it may have been decided by what runs again now.
    return step.kind != "within" or (step.finished_at or 0) < before.started_at


def _has_lost_its_child(step: RecordedStep, before: RecordedStep | None, ended_badly: bool) -> bool:
    """Whether what the step has started will not come to a good end any more."""
    status = step.child_status
    if status is None or not _is_done(step):
        return False
    if status in TERMINAL:
        return status == "cancelled" or (before is None and status != "completed")
    return ended_badly


def _is_done(step: RecordedStep) -> bool:
    return step.status == "completed"


def _cleans_up(step: RecordedStep) -> bool:
    return step.path.partition("/")[0] in _CLEANING_UP


def _above(path: str) -> Iterator[str]:
    """The paths of the steps around this one."""
    end = path.rfind("/")
    while end > 0:
        path = path[:end]
        yield path
        end = path.rfind("/")
