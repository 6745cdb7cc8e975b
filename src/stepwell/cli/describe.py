"""One execution for people: a header and the tree of its steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from stepwell import ExecutionInfo, RunInfo, StepInfo
from stepwell.cli.advice import advice
from stepwell.cli.console import paint
from stepwell.cli.text import clean, duration_text, json_text, moment_text
from stepwell.cli.tree import mark, paint_status, tree_lines

_MOST: Final = 1_000
_SHOWN: Final = 20
"""How many children are listed."""


def description(
    info: ExecutionInfo,
    steps: Sequence[StepInfo],
    children: Sequence[ExecutionInfo],
    now: datetime,
    earlier: Sequence[RunInfo] = (),
) -> Iterator[str]:
    """All lines of `executions describe`; `earlier` are the runs before this one."""
    yield title(info)
    for name, value in _facts(info, now):
        yield f"  {paint(name, 'dim')}{' ' * (10 - len(name))}{value}"
    if info.error is not None:
        yield from (f"            {paint_code(line)}" for line in clean(info.error.traceback).splitlines())
    for run in earlier:
        name = f"run {run.run}"
        yield f"  {paint(name, 'dim')}{' ' * (10 - len(name))}{_end_of(run)}"
    for number, line in enumerate(advice(info, steps, now)):
        name = "" if number else "next"
        yield f"  {paint(name, 'dim')}{' ' * (10 - len(name))}{line}"
    yield ""
    yield from tree_lines(steps, now, full=True) or [paint("No step is recorded yet.", "dim")]
    if children:
        yield ""
        yield paint(f"Children ({len(children)}{' or more' if len(children) >= _MOST else ''}):", "dim")
        yield from (f"  {title(child)}  {ending(child, now)}".rstrip() for child in children[:_SHOWN])
        if len(children) > _SHOWN:
            yield paint(f"  … and {len(children) - _SHOWN} more", "dim")


def title(info: ExecutionInfo) -> str:
    """Symbol, workflow, id and status on one line."""
    return f"{mark(info.status)} {paint(info.workflow, 'bold')} {paint(info.id)} {paint_status(info.status)}"


def waiting(info: ExecutionInfo, now: datetime) -> str | None:
    """Why an execution does not go on, and until when; None when it does or has ended."""
    if info.status not in ("queued", "sleeping", "listening"):
        return None
    left = 0.0 if info.wake_at is None else (info.wake_at - now).total_seconds()
    until = f", for another {duration_text(left)}" if left > 0 else ""
    if info.waiting_for is not None:
        return info.waiting_for + until
    return f"its time{until}" if left > 0 else "a worker"


def ending(info: ExecutionInfo, now: datetime) -> str:
    """What is to be said after the title: what it waits for, or how it ended."""
    awaited = waiting(info, now)
    if awaited is not None:
        return paint(f"waits for {awaited}", "blue")
    if info.error is not None:
        return paint(f"{info.error.type}: {info.error.message}", "red")
    if info.finished_at is None:
        return ""
    took = duration_text((info.finished_at - (info.started_at or info.created_at)).total_seconds())
    result = json_text(info.output) if info.status == "completed" else (info.reason or "")
    return f"{paint(took, 'dim')}  {paint(result)}"


def paint_code(line: str) -> str:
    """A line of a traceback: dim, with its indentation."""
    indent = len(line) - len(line.lstrip())
    return " " * indent + paint(line, "dim")


def _facts(info: ExecutionInfo, now: datetime) -> Iterator[tuple[str, str]]:
    yield "created", _moment(info.created_at, now)
    if info.started_at is not None:
        yield "started", _moment(info.started_at, now)
    if info.finished_at is not None:
        took = duration_text((info.finished_at - (info.started_at or info.created_at)).total_seconds())
        yield "finished", f"{_moment(info.finished_at, now)}, took {took}"
    awaited = waiting(info, now)
    if awaited is not None:
        until = f" ({moment_text(info.wake_at)})" if info.wake_at is not None and info.wake_at > now else ""
        yield "waits for", paint(awaited, "blue") + until
    if info.ending is not None:
        yield "ends as", f"{paint_status(info.ending)}, when it has cleaned up"
    yield from _labels(info)
    yield "input", paint(json_text(info.input))
    if info.status == "completed":
        yield "output", paint(json_text(info.output))
    if info.reason is not None:
        yield "reason", paint(info.reason)
    if info.error is not None:
        yield "error", paint(f"{info.error.type}: {info.error.message}", "red")


def _end_of(run: RunInfo) -> str:
    """How an earlier run ended, on one line."""
    said = run.reason if run.error is None else f"{run.error.type}: {run.error.message}"
    moment = "" if run.finished_at is None else f" {moment_text(run.finished_at)}"
    return f"{paint_status(run.status)}{moment}" + (f"  {paint(said)}" if said else "")


def _labels(info: ExecutionInfo) -> Iterator[tuple[str, str]]:
    if info.run_number > 1:
        yield "run", str(info.run_number)
    if info.version is not None:
        yield "version", paint(info.version)
    if info.tags:
        yield "tags", paint(", ".join(info.tags))
    if info.parent_id is not None:
        yield "parent", paint(info.parent_id)
    if info.priority:
        yield "priority", str(info.priority)


def _moment(moment: datetime, now: datetime) -> str:
    ago = duration_text(max((now - moment).total_seconds(), 0.0))
    return f"{moment_text(moment)} {paint(f'({ago} ago)', 'dim')}"
