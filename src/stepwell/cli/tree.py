"""The steps of an execution as a tree of lines, nested by their paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from stepwell import StepInfo
from stepwell.cli.console import paint
from stepwell.cli.text import clean_line, duration_text, json_text, shortened

STYLES: Final = {
    "queued": ("·", "dim"),
    "running": ("●", "cyan"),
    "retrying": ("↻", "yellow"),
    "sleeping": ("◌", "blue"),
    "listening": ("◍", "blue"),
    "paused": ("‖", "blue"),
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("⊘", "magenta"),
    "aborted": ("⊘", "magenta"),
}
MOMENTS: Final = ("now", "progress")
"""Kinds of steps that take no time."""
VALUE_WIDTH: Final = 100
FULL_WIDTH: Final = 10_000


@dataclass(slots=True)
class Node:
    """A step and those below its path; `step` is None for a path that has no record of its own."""

    name: str
    step: StepInfo | None = None
    children: dict[str, Node] = field(default_factory=dict[str, "Node"])


def tree_of(steps: Sequence[StepInfo]) -> Node:
    """The steps nested by path, in the order in which they began."""
    root = Node("")
    for step in steps:
        node = root
        for part in step.path.split("/"):
            node = node.children.setdefault(part, Node(part))
        node.step, node.name = step, step.name
    return root


def tree_lines(steps: Sequence[StepInfo], now: datetime, *, full: bool = False) -> list[str]:
    """Painted lines, one for each step, with what it waits for and how it went.

    Args:
        steps: Of one run.
        now: Running and waiting times count from here.
        full: With failed attempts and whole values.
    """
    return list(_lines(tree_of(steps), "", now, full))


def mark(status: str) -> str:
    """The painted symbol of a status."""
    symbol, style = STYLES.get(status, ("?", ""))
    return paint(symbol, style)


def paint_status(status: str) -> str:
    """The painted name of a status."""
    return paint(status, STYLES.get(status, ("", ""))[1])


def note(step: StepInfo, now: datetime, *, width: int = VALUE_WIDTH) -> str:
    """What is to be said of a step, on one line."""
    return "  ".join(
        part for part in (_attempts(step), _awaits(step), _time(step, now), _flag(step), _end(step, width)) if part
    )


def _lines(node: Node, indent: str, now: datetime, full: bool) -> Iterator[str]:
    last = len(node.children) - 1
    for index, child in enumerate(node.children.values()):
        branch, below = ("└─ ", "   ") if index == last else ("├─ ", "│  ")
        yield indent + branch + _line(child, now, full)
        if full and child.step is not None:
            yield from _failures(child.step, indent + below + ("│  " if child.children else "   "))
        yield from _lines(child, indent + below, now, full)


def _line(node: Node, now: datetime, full: bool) -> str:
    if node.step is None:
        return paint(node.name, "dim")
    width = FULL_WIDTH if full else VALUE_WIDTH
    return f"{mark(node.step.status)} {paint(node.name, 'bold')}  {note(node.step, now, width=width)}".rstrip()


def _failures(step: StepInfo, indent: str) -> Iterator[str]:
    # The last error of a failed step stands on its own line already.
    for failed in step.attempts[:-1] if step.status == "failed" else step.attempts:
        took = duration_text((failed.finished_at - failed.started_at).total_seconds())
        said = f"attempt {failed.attempt} failed after {took}: {failed.error.type}: {failed.error.message}"
        yield indent + paint(said, "dim")


def _attempts(step: StepInfo) -> str:
    if step.status == "retrying" and step.attempts:
        error = step.attempts[-1].error
        return paint(f"attempt {step.attempts[-1].attempt} failed: {_bare(error.type)}: {error.message}", "yellow")
    return paint(f"attempt {step.attempt}", "yellow") if step.attempt > 1 else ""


def _awaits(step: StepInfo) -> str:
    if step.awaits is None:
        return ""
    if step.kind == "listen":
        return paint(f"waits for event {step.awaits!r}", "blue") if step.status == "listening" else ""
    return paint(step.awaits, "blue" if step.status == "listening" else "dim")


def _time(step: StepInfo, now: datetime) -> str:
    if step.finished_at is not None:
        return (
            ""
            if step.kind in MOMENTS
            else paint(duration_text((step.finished_at - step.started_at).total_seconds()), "dim")
        )
    if step.wake_at is not None:
        verb = {"retrying": "again", "listening": "until"}.get(step.status, "wakes")
        left = (step.wake_at - now).total_seconds()
        return paint(f"{verb} in {duration_text(left)}" if left > 0 else f"{verb} now", "blue")
    return paint(f"for {duration_text((now - step.started_at).total_seconds())}", "dim")


def _flag(step: StepInfo) -> str:
    flags = [paint(f"[{step.flag}]", "yellow")] if step.flag else []
    return " ".join([*flags, paint("undone", "magenta")] if step.undone else flags)


def _end(step: StepInfo, width: int) -> str:
    if step.status == "failed" and step.error is not None:
        return paint(shortened(f"{_bare(step.error.type)}: {clean_line(step.error.message)}", width), "red")
    if step.status == "completed" and step.output is not None and step.kind not in ("sleep", "progress"):
        return paint("→", "dim") + " " + paint(shortened(json_text(step.output), width))
    return ""


def _bare(type_name: str) -> str:
    return type_name.rpartition(".")[2]
