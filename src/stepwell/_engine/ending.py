"""What is left to do of a run whose end is decided: undos, then `on_error`, then the last transition.

A failing run is first recorded as failing; whatever happens afterwards, it fails with that error. Then, in phases that each
have a scope of their own: the function is run over its record if undos are missing (`rebuild.py`), each undo runs as the step
`#undo/<path>` in reverse order of start, and `on_error` runs in the scope `#on_error`. A crash between any two of them finds
the ended undos in the history and goes on with the next. A cancelled run does the same without `on_error`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from types import FunctionType
from typing import TYPE_CHECKING, Final, Never, Protocol

from stepwell._engine.body import BodyWork
from stepwell._engine.call import Call
from stepwell._engine.failure import record_error
from stepwell._engine.invoke import invoke
from stepwell._engine.outcome import Aborted, Cancelled, Completed, Failed, Lost, Park, Release, Stop, Unwound
from stepwell._engine.rebuild import Rebuild
from stepwell._engine.references import functions_mentioned_by
from stepwell._engine.undo import NO_RESULT, Undoable, found_again
from stepwell.codec import preview
from stepwell.errors import NonRetryableError, WorkflowCodeError
from stepwell.ids import unquote_step_name
from stepwell.store.transitions import Failing, Finished, OwnerTransition, Parked, Released, StepFinished

if TYPE_CHECKING:
    from stepwell._engine.runner import Runner

log: Final = logging.getLogger("stepwell")

UNDO: Final = "#undo"
ON_ERROR: Final = "#on_error"


class Phase(Protocol):
    """A piece of user code that runs by itself, in a scope of its own."""

    root: Call

    async def run(self) -> object:
        """Run the code."""
        ...

    def raised(self, error: BaseException) -> None:
        """Told what the code raised, unless it was ended."""
        ...

    def over(self, stop: Stop) -> None:
        """Told that nothing of the code runs any more."""
        ...


class Ending:
    """The phases of one ending.

    Args:
        runner: Of the execution.
        end: What the run ends as.
        is_recorded: Whether an earlier incarnation, or whoever cancelled, has recorded that.
    """

    def __init__(self, runner: Runner, end: Failed | Cancelled, *, is_recorded: bool) -> None:
        self.end = end
        self._runner = runner
        self._is_recorded = is_recorded
        self._phase: Phase | None = None
        self._phases = self._plan()

    def go_on(self) -> None:
        """Begin the next phase, or end the run."""
        self._phase = next(self._phases, None)
        if self._phase is None:
            self._runner.close(self.end)
        else:
            self._runner.run_phase(self._phase.root, self._phase.run)

    def phase_over(self, stop: Stop) -> None:
        """The phase has ended, or has ended itself by `step.fail` or `step.abort`; what was decided stands."""
        if self._phase is not None:
            self._phase.over(stop)
        self.go_on()

    def raised(self, error: BaseException) -> None:
        """The code of the phase raised."""
        if self._phase is not None:
            self._phase.raised(error)

    def _plan(self) -> Iterator[Phase]:
        runner, end = self._runner, self.end
        todo = self._steps_to_undo()
        has_handler = isinstance(end, Failed) and runner.definition.on_error is not None
        if isinstance(end, Failed) and not self._is_recorded and (todo or has_handler):
            yield _Recording(runner, end)
        if todo:
            yield from self._undos(todo)
        if isinstance(end, Failed) and has_handler:
            yield _Handler(runner, end)

    def _steps_to_undo(self) -> set[str]:
        runner = self._runner
        paths = set(runner.undos or ())
        for path, row in runner.history.items():
            if row.undo and row.status == "completed" and not path.startswith("#"):
                paths.add(path)
        return {path for path in paths if not _has_ended(runner, f"{UNDO}/{path}")}

    def _undos(self, todo: set[str]) -> Iterator[Phase]:
        runner = self._runner
        missing = todo.difference(runner.undos or ())
        if missing:
            rebuild = Rebuild(runner, missing)
            yield rebuild
            self._find_by_name(missing.difference(runner.undos or ()), rebuild)
        found = runner.undos or {}
        for step in sorted((found[path] for path in todo), key=lambda step: step.seq, reverse=True):
            undoing = _Undoing(runner, step)
            problem = undoing.prepare()
            if problem is None:
                yield undoing
            else:
                undoing.note_failed(problem)

    def _find_by_name(self, missing: set[str], rebuild: Rebuild) -> None:
        if not missing:
            return
        runner = self._runner
        known = functions_mentioned_by([runner.definition.function, *rebuild.bodies])
        undos = runner.undos = dict(runner.undos or {})
        for path in missing:
            row = runner.history[path]
            fn: FunctionType | None = known.get(row.undo or "")
            undo = None if fn is None else found_again(fn, runner.policy)
            undos[path] = Undoable(path, row.seq, row.output or "null", undo)


def _has_ended(runner: Runner, path: str) -> bool:
    row = runner.history.get(path)
    return row is not None and row.status in ("completed", "failed", "cancelled")


class _Recording:
    """Nothing is undone before it is on disk that the run fails: else a crash would let it go on without what was undone."""

    def __init__(self, runner: Runner, end: Failed) -> None:
        self.root = Call(runner, None, ON_ERROR, ON_ERROR, 0, None)
        self._runner = runner
        self._end = end

    async def run(self) -> None:
        runner = self._runner
        await runner.record(Failing(runner.id, runner.epoch, runner.run, self._end.error))

    def raised(self, error: BaseException) -> None:
        log.error("That execution %s fails could not be recorded: %s", self._runner.id, error)

    def over(self, stop: Stop) -> None:
        """Nothing to do."""


class _Undoing:
    """The undo of one step."""

    def __init__(self, runner: Runner, step: Undoable) -> None:
        runner.seq += 1
        self.root = Call(runner, None, UNDO, UNDO, runner.seq, None)
        self._runner = runner
        self._step = step
        self._work: BodyWork | None = None

    def prepare(self) -> BaseException | None:
        """Make the call of the function; gives why that is impossible."""
        runner, undo = self._runner, self._step.undo
        if undo is None:
            return WorkflowCodeError(
                f"Step {self._step.path!r} was not undone: its undo is not to be found. The code does not make this call any more, or it is inside the body of another step and its undo is no function of a module (a closure, a lambda, a partial), which only the process that ran it knew."
            )
        try:
            value = undo.codec.decode(self._step.output)
        except Exception as error:  # stored by other code, or refused by a model of the user's
            return error
        input = preview((value,)) if runner.host.record_arguments else None
        self._work = BodyWork(undo.fn, (value,), NO_RESULT, undo.policy, None, input, None, None)
        return None

    async def run(self) -> object:
        assert self._work is not None  # noqa: S101 - prepared before
        name = unquote_step_name(self._step.path.rpartition("/")[2])
        return await invoke(self.root, name, self._work, place=self._step.path)

    def raised(self, error: BaseException) -> None:
        log.error("Step %r of execution %s could not be undone: %r", self._step.path, self._runner.id, error)

    def over(self, stop: Stop) -> None:
        call = (self.root.calls or {}).get(self._step.path)
        if call is not None and call.outcome is not None:
            return
        # It was ended from within; that must be known, or it would begin anew after a crash.
        error = stop.error if isinstance(stop, Failed) else record_error(NonRetryableError("step.abort() in an undo"))
        self._note_failed(error, call)

    def note_failed(self, problem: BaseException) -> None:
        """Record that the step cannot be undone."""
        log.error("%s (execution %s)", problem, self._runner.id)
        self._note_failed(record_error(problem), None)

    def _note_failed(self, error: str, call: Call | None) -> None:
        runner, now = self._runner, self._runner.clock.now()
        runner.note(
            StepFinished(
                runner.id,
                runner.epoch,
                runner.run,
                f"{UNDO}/{self._step.path}",
                self.root.seq if call is None else call.seq,
                "run",
                "failed",
                1 if call is None else call.attempt,
                None if call is None else call.input,
                None,
                error,
                now if call is None else call.started_at or now,
                now,
            )
        )


class _Handler:
    """`on_error`: whatever it does, the run fails with its error."""

    def __init__(self, runner: Runner, end: Failed) -> None:
        runner.seq += 1
        self.root = Call(runner, None, ON_ERROR, ON_ERROR, runner.seq, None, started_at=runner.clock.now())
        self._runner = runner
        self._end = end

    async def run(self) -> object:
        return await self._runner.call_on_error(self._end.error)

    def raised(self, error: BaseException) -> None:
        runner, root = self._runner, self.root
        log.error("on_error of execution %s raised; its failure stands", runner.id, exc_info=error)
        runner.note(
            StepFinished(
                runner.id,
                runner.epoch,
                runner.run,
                root.path,
                root.seq,
                "on_error",
                "failed",
                1,
                None,
                None,
                record_error(error),
                root.started_at,
                runner.clock.now(),
            )
        )

    def over(self, stop: Stop) -> None:
        """Nothing to do."""


def last_transition(runner: Runner, stop: Stop) -> OwnerTransition | None:
    """What is written when an incarnation leaves for this reason."""
    id, epoch, run, now = runner.id, runner.epoch, runner.run, runner.clock.now()
    match stop:
        case Completed(text):
            return Finished(id, epoch, run, "completed", text, None, None, now)
        case Failed(error):
            return Finished(id, epoch, run, "failed", None, error, None, now)
        case Aborted(reason):
            return Finished(id, epoch, run, "aborted", None, None, reason, now)
        case Cancelled(reason):
            return Finished(id, epoch, run, "cancelled", None, None, reason, now)
        case Park(wake_at, waiting_for, status):
            return Parked(id, epoch, status, wake_at, waiting_for, runner.signal)
        case Release(wake_at, waiting_for):
            return Released(id, epoch, wake_at, waiting_for)
        case Lost():
            return None


def end_now(scope: Call, stop: Failed | Aborted) -> Never:
    """End the execution from within its code, in the event loop or in a thread: decided first, so nothing can swallow it."""
    runner = scope.runner
    try:
        in_loop = asyncio.get_running_loop() is runner.loop
    except RuntimeError:
        in_loop = False
    if in_loop:
        runner.end(stop)
        raise Unwound
    if runner.stop is None:
        decided = threading.Event()

        def decide() -> None:
            runner.end(stop)
            decided.set()

        runner.loop.call_soon_threadsafe(decide)
        decided.wait()
    runner.unwound_in_thread()
