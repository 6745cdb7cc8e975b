"""Following an execution to its end: a live tree for people, a line for each change otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from stepwell import App, Execution, ExecutionInfo, StepInfo
from stepwell.cli.console import is_terminal, paint, put, put_json
from stepwell.cli.describe import ending, title
from stepwell.cli.exits import FAILED
from stepwell.cli.tree import mark, note, paint_status

PAUSE_SECONDS: Final = 0.1
"""Changes that come closer together are shown together."""


async def follow(app: App, execution_id: str, *, as_json: bool) -> int:
    """Show what happens until the execution has ended; the exit code tells how."""
    execution = app.get_execution(execution_id)
    if is_terminal() and not as_json:
        # Imported here: rich takes its time, and only terminals need it.
        from stepwell.cli.live import show_live

        info = await show_live(snapshots(execution))
    else:
        info = await _print_changes(execution, as_json=as_json)
    return 0 if info.status == "completed" else FAILED


async def snapshots(execution: Execution[Any]) -> AsyncIterator[tuple[ExecutionInfo, list[StepInfo]]]:
    """The execution with its steps now, and after changes."""
    async for info in execution.watch():
        yield info, await execution.steps()
        await asyncio.sleep(PAUSE_SECONDS)


async def _print_changes(execution: Execution[Any], *, as_json: bool) -> ExecutionInfo:
    before: ExecutionInfo | None = None
    seen: dict[str, StepInfo] = {}
    async for info, steps in snapshots(execution):
        changed = changed_steps(seen, steps)
        seen.update((step.path, step) for step in changed)
        ended = info.finished_at is not None
        # Steps come before the end of the execution that they belong to, and after its start.
        lines: list[ExecutionInfo | StepInfo] = [*changed]
        if before is None or _state(info) != _state(before):
            lines.insert(len(lines) if ended else 0, info)
        _print(lines, as_json=as_json)
        before = info
    assert before is not None  # noqa: S101 - watch gives at least one
    return before


def changed_steps(seen: dict[str, StepInfo], steps: Sequence[StepInfo]) -> list[StepInfo]:
    """The steps that are new or not as they were."""
    return [step for step in steps if seen.get(step.path) != step]


def _print(lines: Sequence[ExecutionInfo | StepInfo], *, as_json: bool) -> None:
    for line in lines:
        if as_json:
            put_json({"type": "step" if isinstance(line, StepInfo) else "execution", **line.to_dict()})
        else:
            put([_said(line, datetime.now(UTC))])


def _said(line: ExecutionInfo | StepInfo, now: datetime) -> str:
    clock = paint(f"{now:%H:%M:%SZ}", "dim")
    if isinstance(line, StepInfo):
        step = f"{mark(line.status)} {paint(_place(line))} {paint_status(line.status)}"
        return f"{clock} {step}  {note(line, now)}".rstrip()
    return f"{clock} {title(line)}  {ending(line, now)}".rstrip()


def _place(step: StepInfo) -> str:
    """The path, but with the name that people gave where the engine made one of its own."""
    above, separator, last = step.path.rpartition("/")
    return above + separator + step.name if last.startswith("#") else step.path


def _state(info: ExecutionInfo) -> tuple[object, ...]:
    return info.status, info.waiting_for, info.wake_at, info.run_number
