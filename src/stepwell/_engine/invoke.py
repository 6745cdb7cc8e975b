"""Making a step call: identity, replay, one body for all its callers, and cancellation by workflow code.

A body runs in the task of its caller when that is the task which entered the scope, for a task of its own would cost as
much as the rest of the step. From any other task (a branch of `gather`, an orphan) the engine runs it in a task of its
own, since there a second caller may come who must not suffer when the first is cancelled.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any, Final

from stepwell._engine.call import NOTHING, Call, Work, current
from stepwell._engine.outcome import Outcome, Unwound
from stepwell.errors import PayloadCodecError, WorkflowCodeError
from stepwell.ids import quote_step_name
from stepwell.store.records import HistoryRow
from stepwell.store.transitions import StepFinished, StepFlagged

log: Final = logging.getLogger("stepwell")


async def invoke(scope: Call, name: str, work: Work, *, place: str | None = None, inline: bool = False) -> Any:
    """Make the step call `name` in this scope and give its value, or raise its recorded error.

    Args:
        scope: Where the call is made.
        name: The user's name.
        work: What to do if nothing is recorded.
        place: The engine's own name for it in the path, instead of the quoted one.
        inline: The calling task is one of the engine's own, so the work may always run in it.
    """
    runner = scope.runner
    if runner.stop is not None:
        await runner.unwound()
    if asyncio.get_running_loop() is not runner.loop:
        raise WorkflowCodeError(
            f"Step {name!r} was called in another event loop than that of its execution {runner.id!r}, where nobody would wake it. Await it in workflow code or a body; in plain functions use current_step(SyncStep)."
        )
    key = place or name
    if scope.calls is None:
        scope.calls = {}
    call = scope.calls.get(key)
    if call is not None:
        return await _again(call, work)
    quoted = quote_step_name(name) if place is None else place
    runner.seq += 1
    path = f"{scope.path}/{quoted}" if scope.path else quoted
    call = scope.calls[key] = Call(runner, scope, name, path, runner.seq, work)
    record = runner.history.get(call.path)
    if runner.rebuilding is not None:
        await runner.rebuilding.take_over(call, work, record)
        return await result_of(call, work)
    if record is not None and _replay(call, work, record):
        return await result_of(call, work)
    runner.enter_call(scope, call)
    try:
        if scope.is_body and not scope.announced:
            runner.announce(scope)
        task = asyncio.current_task(runner.loop)
        if inline or task is scope.task:
            call.task = task
            try:
                if runner.holding:
                    await runner.hold(call)
                call.settle(await work.perform(call, record))
            except BaseException as error:
                _interrupted(call, work, error)
                raise
        else:
            call.worker = runner.spawn(_perform_apart(call, work, record), contextvars.copy_context())
            await _wait_for(call)
    finally:
        runner.leave_call(scope, call)
    value = call.kept
    if value is not NOTHING:
        call.kept = NOTHING
        return value
    return await result_of(call, work)


def _replay(call: Call, work: Work, record: HistoryRow) -> bool:
    """Take over what was recorded; True when that is an outcome."""
    call.seq = record.seq
    if record.kind != work.kind:
        raise call.runner.mismatch(
            call.path, f"was recorded as {_article(record.kind)} and is now {_article(work.kind)}"
        )
    match record.status:
        case "completed":
            call.outcome = Outcome("completed", record.output)
            if record.undo:
                call.runner.take_undo(record, work)
        case "failed":
            call.outcome = Outcome("failed", record.error)
        case "cancelled":
            call.outcome = Outcome("cancelled", None)
        case _:
            call.announced = True
            return False
    return True


def _article(kind: str) -> str:
    return f"a {'step' if kind == 'run' else kind}"


async def _again(call: Call, work: Work) -> Any:
    """The same name again in the same scope: the first result, without running anything."""
    first = call.work
    if first is None or first.kind != work.kind:
        raise call.runner.mismatch(
            call.path, f"was called as {_article(first.kind if first else 'scope')} and then as {_article(work.kind)}"
        )
    if not first.same_as(work):
        _flag_repeat(call)
    if call.outcome is None:
        # All its callers may just have been cancelled; this one has not.
        call.cut = False
        scope = call.parent or call.runner.root
        call.runner.enter_call(scope, call)
        try:
            await _wait_for(call)
        finally:
            call.runner.leave_call(scope, call)
    return await result_of(call, first)


def _flag_repeat(call: Call) -> None:
    problem = (
        f"Step {call.path!r} of execution {call.runner.id!r} was called again with other arguments or another function; "
        "it gives the first result. Use a name of its own for each call."
    )
    if call.runner.host.strict_names:
        raise WorkflowCodeError(problem)
    if not call.flagged:
        call.flagged = True
        log.warning("%s", problem)
        runner = call.runner
        runner.note(StepFlagged(runner.id, runner.epoch, runner.run, call.path, "repeated"))


async def result_of(call: Call, work: Work) -> Any:
    """The value of a call that has an outcome: what a replay would give."""
    outcome = call.outcome
    assert outcome is not None  # noqa: S101 - set by whoever woke us
    if outcome.status == "completed":
        try:
            return work.value_of(call, outcome.text or "null")
        except PayloadCodecError as error:
            raise call.runner.give_back(error) from error
    if outcome.status == "failed":
        try:
            error = call.runner.host.errors.restore(outcome.text or "")
        except PayloadCodecError as problem:
            raise call.runner.give_back(problem) from problem
        parent = call.parent
        if parent is not None and parent.is_body:
            parent.raised = [*(parent.raised or ()), error]
        raise error
    # Recorded as cancelled by workflow code: it will be cancelled again.
    await asyncio.get_running_loop().create_future()


async def _perform_apart(call: Call, work: Work, record: HistoryRow | None) -> None:
    """Do the work in a task of the engine; what it raises reaches the callers, not the event loop."""
    current.set(call.parent or call.runner.root)
    call.task = asyncio.current_task()
    try:
        if call.runner.holding:
            await call.runner.hold(call)
        call.settle(await work.perform(call, record))
    except BaseException as error:
        _interrupted(call, work, error)
        if isinstance(error, asyncio.CancelledError):
            raise


def _interrupted(call: Call, work: Work, error: BaseException) -> None:
    """The work came to no recorded end in its task: it was cancelled, or could not begin (a mismatch, say)."""
    runner = call.runner
    waiters = [future for future in call.waiters or () if not future.done()]
    if not isinstance(error, asyncio.CancelledError):
        _forget(call)
        for future in waiters:
            future.set_exception(error)
    elif runner.stop is not None:
        for future in waiters:
            future.set_exception(Unwound())
    elif call.outcome is not None:
        if waiters:
            runner.spawn(_settle_once_written(call, call.outcome), contextvars.copy_context())
    elif waiters and not call.cut:
        # Somebody else waits for it: the work goes on without the caller who was cancelled.
        call.worker = runner.spawn(
            _perform_apart(call, work, runner.history.get(call.path)), contextvars.copy_context()
        )
    else:
        record_cancelled(call, work)


async def _settle_once_written(call: Call, outcome: Outcome) -> None:
    await call.runner.host.journal.flush()
    call.settle(outcome)


def record_cancelled(call: Call, work: Work) -> None:
    """Record that workflow code has cancelled the call."""
    runner = call.runner
    now = runner.clock.now()
    runner.note(
        StepFinished(
            runner.id,
            runner.epoch,
            runner.run,
            call.path,
            call.seq,
            work.kind,
            "cancelled",
            call.attempt,
            call.input,
            None,
            None,
            call.started_at or now,
            now,
        )
    )
    call.settle(Outcome("cancelled", None))


def _forget(call: Call) -> None:
    if call.parent is not None and call.outcome is None:
        for key, child in list((call.parent.calls or {}).items()):
            if child is call:
                del (call.parent.calls or {})[key]


async def _wait_for(call: Call) -> None:
    """Wait for the outcome of work that runs elsewhere; the last caller to be cancelled takes the work along."""
    future = call.outcome_to_come()
    try:
        await future
    except asyncio.CancelledError:
        waiters = call.waiters or []
        if future in waiters:
            waiters.remove(future)
        worker = call.worker
        if not waiters and worker is not None and not worker.done() and call.outcome is None:
            call.cut = True
            if not worker.cancelling():
                # When the execution leaves memory the worker was told so already; twice would cut its clean-up.
                worker.cancel()
            await asyncio.wait([worker])
        raise
    if call.outcome is None and call.runner.stop is not None:
        await call.runner.unwound()
