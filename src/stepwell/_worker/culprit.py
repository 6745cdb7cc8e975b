"""Whose code a task runs: asked, from another thread, when that code blocks the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from stepwell._engine.call import Call, current
from stepwell._engine.runner import Runner


def owner_of(residents: Mapping[str, Runner], bodies: Iterable[Call], task: asyncio.Task[Any] | None) -> str:
    """Name the step or the execution, as well as can be seen, at the beginning of a sentence."""
    if task is None:
        return "A callback"
    # The body that began last is the innermost of those that run in one task.
    call = next((body for body in reversed(list(bodies)) if body.task is task), None) or _scope_of(task)
    if call is not None and call.is_body:
        return f"Step {call.path!r} of execution {call.runner.id}"
    for runner in list(residents.values()):
        if call is runner.root or task is runner.root.task or task in runner.tasks:
            return f"The workflow code of execution {runner.id} ({runner.definition.name})"
    starters = [body for body in list(bodies) if body.tasks]
    if starters:
        names = " or ".join(f"step {body.path!r} of execution {body.runner.id}" for body in starters[:3])
        return f"Task {task.get_name()!r}, which perhaps {names} has started,"
    return f"Task {task.get_name()!r}"


def _scope_of(task: asyncio.Task[Any]) -> Call | None:
    """The scope that the task has inherited, where Python (from 3.12 on) tells."""
    context = getattr(task, "get_context", None)
    return None if context is None else context().get(current)
