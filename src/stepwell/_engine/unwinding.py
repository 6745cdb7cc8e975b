"""How user code is ended when its execution leaves memory, or goes on to clean up.

The stop is set before this begins. Then: cancel the function and the tasks that it started, fail every pending wait, wait
until all of them have ended, and let the runner go on. Step calls meanwhile raise `Unwound`, and a call that has raised it
too often hangs, so that a loop which swallows everything cannot spin.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any, Final, Never, cast

from stepwell._engine.background import start
from stepwell._engine.outcome import UNWOUND_LIMIT, Lost, Unwound

if TYPE_CHECKING:
    from stepwell._engine.runner import Runner

log: Final = logging.getLogger("stepwell")

HURRY_SECONDS: Final = 0.5
"""How long user code may take to end when the process is about to end and has waited for its bodies already."""
UNWIND_SECONDS = 10.0
"""How long user code may take to end once its execution leaves memory; then its tasks are abandoned."""


class Unwinding:
    """One leaving of the user code of an execution."""

    __slots__ = ("_hanging", "_hanging_threads", "_raised", "_runner", "_task")

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._task: asyncio.Task[None] | None = None
        self._raised = 0
        self._hanging: set[asyncio.Task[Any]] = set()
        self._hanging_threads = 0

    def begin(self) -> None:
        """Begin to end the user code, unless that is under way."""
        if self._task is None:
            self._task = start(self._unwind(), name=f"stepwell-unwind-{self._runner.id}")

    async def unwound(self) -> Never:
        """Raise what a step call raises meanwhile; never returns."""
        self._raised += 1
        if self._raised > UNWOUND_LIMIT:
            self._hanging.add(cast("asyncio.Task[Any]", asyncio.current_task()))
            await self._runner.loop.create_future()
        raise Unwound

    def unwound_in_thread(self) -> Never:
        """The same for a call from a thread."""
        self._raised += 1
        if self._raised > UNWOUND_LIMIT:
            self._hanging_threads += 1
            threading.Event().wait()
        raise Unwound

    async def _unwind(self) -> None:
        runner = self._runner
        for task in runner.pending_tasks():
            task.cancel()
        end = runner.loop.time() + (HURRY_SECONDS if runner.hurry else UNWIND_SECONDS)
        while True:
            for future in list(runner.waits):
                if not future.done():
                    future.set_exception(Unwound())
            tasks = runner.pending_tasks()
            if not tasks and not runner.threads:
                break
            hopeless = tasks <= self._hanging and len(runner.threads) <= self._hanging_threads
            if hopeless or runner.loop.time() >= end:
                self._abandon(tasks)
                break
            # Tasks may start others while they end, and a hanging one does not say so: look again now and then.
            await asyncio.wait([*tasks, *runner.threads], timeout=UNWIND_SECONDS / 100)
        if runner.writes and not isinstance(runner.stop, Lost):
            await runner.host.journal.flush()
        runner.user_code_ended()

    def _abandon(self, tasks: set[asyncio.Task[Any]]) -> None:
        runner = self._runner
        stacks = "\n".join(str(frame) for task in tasks for frame in task.get_stack(limit=3))
        log.error(
            "Execution %s leaves memory, but %d of its tasks and threads did not end within %g s; they are abandoned and can record nothing:\n%s",
            runner.id,
            len(tasks) + len(runner.threads),
            UNWIND_SECONDS,
            stacks,
        )
        _ABANDONED.update(tasks)
        for task in tasks:
            task.add_done_callback(_ABANDONED.discard)


_ABANDONED: Final[set[asyncio.Task[Any]]] = set()
"""Tasks that did not end; kept so that asyncio does not complain about each when it is collected."""
