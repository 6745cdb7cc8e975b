"""`step.run`: attempts of a body until one succeeds or none is left."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from msgspec import Struct

from stepwell._engine.bridge import Mailbox
from stepwell._engine.call import Call, Work, current
from stepwell._engine.deadlines import Deadline
from stepwell._engine.elsewhere import PROCESS, Elsewhere, in_executor, in_process
from stepwell._engine.failure import record_error
from stepwell._engine.outcome import Outcome
from stepwell._engine.undo import Undo, Undoable, recorded
from stepwell._keys import secret_keys
from stepwell.codec import Codec
from stepwell.errors import (
    NonRetryableError,
    PayloadCodecError,
    SerializationError,
    StepTimeoutError,
    WorkflowCodeError,
)
from stepwell.retry import RetryPolicy
from stepwell.store.records import HistoryRow
from stepwell.store.transitions import StepFinished, StepRetrying, Verdict

if TYPE_CHECKING:
    import concurrent.futures

log: Final = logging.getLogger("stepwell")

_NEVER_RETRIED: Final = (NonRetryableError, SerializationError, WorkflowCodeError)


Attempt: TypeAlias = "tuple[str, object, BaseException | None]"
"""What one attempt gave: text and value of its result, or its error."""


class BodyWork(Struct, gc=False):
    """The body of a step with its options.

    The garbage collector does not follow it: there is one for each step in memory. Whoever drops an execution must
    therefore take its calls apart, as its arguments may lead back to it.
    """

    fn: Callable[..., Any]
    args: tuple[object, ...]
    codec: Codec
    policy: RetryPolicy
    timeout: int | None
    input: str | None
    executor: Elsewhere | None
    mailbox: Mailbox | None
    undo: Undo | None = None

    @property
    def kind(self) -> str:
        return "run"

    def value_of(self, call: Call, text: str) -> object:
        try:
            return self.codec.decode(text)
        except PayloadCodecError:
            raise
        except SerializationError as error:
            raise call.runner.mismatch(
                call.path, f"recorded a result that does not fit the code any more ({error})"
            ) from error

    def same_as(self, other: Work) -> bool:
        return isinstance(other, BodyWork) and _identity(self.fn) == _identity(other.fn) and self.input == other.input

    async def perform(self, call: Call, record: HistoryRow | None) -> Outcome:
        runner = call.runner
        call.input = self.input
        if self.codec.has_secrets:
            _check_keys(call)
        if record is not None:
            await self.take_up(call, record)
        while True:
            if runner.holding:
                await runner.hold(call)
            if not runner.host.is_lease_sure():
                await runner.make_sure()
            text, value, error = await self._attempt(call)
            if error is None:
                # This wait is the step's commit: most executions in memory are here. Few frames, few objects.
                outcome = Outcome("completed", text)
                undo = None if self.undo is None else self._keep_undo(call, text, self.undo)
                try:
                    verdict = await runner.send(self.finished(call, "completed", text, None, undo))
                except asyncio.CancelledError:
                    call.settle_later(outcome)
                    raise
                if verdict is None and runner.stop is None:
                    call.kept = value
                    self.args = ()
                    return outcome
                error = await self._refused(call, verdict)
            wait = self.delay(call, error)
            if wait is None:
                return await self.fail(call, error)
            await self.retry(call, error, wait)

    async def take_up(self, call: Call, record: HistoryRow) -> None:
        """Go on where an earlier incarnation was: the same attempt, or the next one after the rest of its wait."""
        runner = call.runner
        call.attempt = record.attempt
        if record.status == "retrying":
            wake_at = record.wake_at or 0
            if wake_at > runner.clock.now():
                runner.idle_again(wake_at, call.path)
            await runner.wait_until(wake_at, call)
            call.attempt += 1

    # ---------------------------------------------------------------------------------------------- one attempt

    async def _attempt(self, call: Call) -> Attempt:
        runner = call.runner
        bodies = runner.host.bodies
        task: Any = call.task
        cancels = task.cancelling()
        call.closed = call.timed_out = False
        call.triggers = 0
        call.places = None
        call.started_at = bodies[call] = runner.clock.now()
        deadline = None
        if self.timeout is not None and self.executor is not PROCESS:
            deadline = self._deadline(call, task)
        token = current.set(call)
        runner.enter_body(call)
        error: BaseException | None = None
        text: str = ""
        value: object = None
        try:
            if self.executor is not None:
                value = await self._run_elsewhere(call, task)
            elif is_async(self.fn):
                value = await self.fn(*self.args)
            else:
                value = await self._run_blocking(call)
        except BaseException as raised:
            # The border to user code: whatever it raises is its outcome. Only when the interpreter closes this very
            # coroutine, which happens outside of its task, must it end.
            if isinstance(raised, GeneratorExit) and not _is_running(task):
                raise
            error = raised
        finally:
            call.closed = True
            runner.leave_body(call)
            current.reset(token)
            del bodies[call]
            if deadline is not None:
                deadline.cancel()
        if runner.stop is not None:
            await runner.unwound()
        if call.timed_out:
            task.uncancel()
            if error is not None and task.cancelling() <= cancels:
                error = StepTimeoutError(call.path, cast("int", self.timeout) / 1_000_000)
        cancelled = isinstance(error, asyncio.CancelledError) and task.cancelling() > cancels
        if cancelled or call.cut:
            # With `cut` all callers are gone, cancelled: the record must say so, whatever the body made of it.
            await _cancel_children(call)
            raise error if isinstance(error, asyncio.CancelledError) else asyncio.CancelledError
        if error is None:
            if call.calls is not None:
                await _wait_for_children(call)
            try:
                text, value = self.codec.snapshot(value)
                if len(text) > runner.host.payload_limit // 4:
                    runner.check_size(text, f"The result of step {call.path!r}")
            except SerializationError as refused:
                error = SerializationError(f"Step {call.path!r}: {refused}")
        return text, value, error

    async def _run_blocking(self, call: Call) -> object:
        submit = self.mailbox.submit if self.mailbox is not None else call.runner.host.executor.submit
        value, error = await submit(contextvars.copy_context(), functools.partial(self.fn, *self.args))
        if error is not None:
            raise error
        # A plain function may be a wrapper around an async one.
        return await value if inspect.isawaitable(value) else value

    async def _run_elsewhere(self, call: Call, task: asyncio.Task[object]) -> object:
        if self.executor is not PROCESS:
            return await in_executor(cast("concurrent.futures.Executor", self.executor), call, self.fn, self.args)
        deadline: Deadline | None = None
        waits = True

        def start() -> None:
            # A process takes one body at a time: standing in line is no part of the attempt.
            nonlocal deadline
            if waits and self.timeout is not None:
                deadline = self._deadline(call, task)

        try:
            return await in_process(call, self.fn, self.args, start)
        finally:
            waits = False
            if deadline is not None:
                deadline.cancel()

    def _deadline(self, call: Call, task: asyncio.Task[object]) -> Deadline:
        host = call.runner.host
        return host.deadlines.at(host.clock.now() + (self.timeout or 0), functools.partial(_time_out, call, task))

    # ---------------------------------------------------------------------------------------------- what follows

    def delay(self, call: Call, error: BaseException) -> int | None:
        """Microseconds until the next attempt, or None when there is none."""
        policy = self.policy
        if call.attempt > policy.retries or isinstance(error, _NEVER_RETRIED) or _comes_from(error, call.raised):
            return None
        if policy.retry_if is not None:
            try:
                if not policy.retry_if(cast("Exception", error)):
                    return None
            except Exception:
                log.exception("retry_if of step %r raised; the step is not tried again", call.path)
                return None
        return policy.delay_us(call.attempt, call.runner.host.rng.random())

    async def _refused(self, call: Call, verdict: Verdict) -> SerializationError:
        """The result was not written: the execution is lost, or the store cannot hold the value."""
        if isinstance(verdict, Exception):
            return SerializationError(f"The result of step {call.path!r} cannot be stored: {verdict}")
        return await call.runner.unwound()

    async def fail(self, call: Call, error: BaseException) -> Outcome:
        """Record that no further attempt follows."""
        await _cancel_children(call)
        outcome = Outcome("failed", record_error(error))
        log.info("Step %r of execution %s failed for good: %r", call.path, call.runner.id, error)
        try:
            await call.runner.record(self.finished(call, "failed", None, outcome.text))
        except asyncio.CancelledError:
            call.settle_later(outcome)
            raise
        return outcome

    def _keep_undo(self, call: Call, text: str, undo: Undo) -> str | None:
        """The step is about to be recorded as completed: keep its undo with it, unless the run is cleaning up already."""
        runner = call.runner
        if runner.ending is not None:
            return None
        runner.keep_undo(Undoable(call.path, call.seq, text, undo))
        return recorded(call, undo)

    def finished(
        self, call: Call, status: str, output: str | None, error: str | None, undo: str | None = None
    ) -> StepFinished:
        """The record of the step's end."""
        runner = call.runner
        return StepFinished(
            runner.id,
            runner.epoch,
            runner.run,
            call.path,
            call.seq,
            self.kind,
            status,
            call.attempt,
            self.input,
            output,
            error,
            call.started_at,
            runner.clock.now(),
            undo,
        )

    async def retry(self, call: Call, error: BaseException, wait: int) -> None:
        """Record a failed attempt and wait for the next one."""
        runner = call.runner
        now = runner.clock.now()
        log.warning(
            "Step %r of execution %s failed at attempt %d and is tried again in %.1f s: %r",
            call.path,
            runner.id,
            call.attempt,
            wait / 1_000_000,
            error,
        )
        call.announced = False
        await runner.record(
            StepRetrying(
                runner.id,
                runner.epoch,
                runner.run,
                call.path,
                call.seq,
                call.attempt,
                self.input,
                record_error(error),
                call.started_at,
                now,
                now + wait,
                runner.is_idle(),
                self.kind,
            )
        )
        call.raised = None
        call.forget_cancelled()
        if wait:
            await runner.wait_until(now + wait, call)
        call.attempt += 1


def _check_keys(call: Call) -> None:
    """Before the body runs: a result that could not be stored would be lost."""
    try:
        secret_keys()
    except PayloadCodecError as error:
        raise call.runner.give_back(error) from error


def _is_running(task: asyncio.Task[object]) -> bool:
    try:
        return asyncio.current_task() is task
    except RuntimeError:
        return False


def _time_out(call: Call, task: asyncio.Task[object]) -> None:
    call.timed_out = True
    task.cancel()


async def _wait_for_children(call: Call) -> None:
    """A step is complete when the steps inside it are."""
    while children := call.open_children():
        futures = [child.outcome_to_come() for child in children]
        await call.runner.wait_for_first(call, futures)


async def _cancel_children(call: Call) -> None:
    """The body has failed: what it started and nobody awaits any more ends with it."""
    workers = [child.worker for child in call.open_children() if child.worker is not None and not child.worker.done()]
    for child in call.open_children():
        if child.worker is not None:
            child.cut = True
            if not child.worker.cancelling():
                child.worker.cancel()
    if workers:
        await asyncio.wait(workers)


def _comes_from(error: BaseException, raised: list[BaseException] | None) -> bool:
    """Whether the error is, wraps or contains the failure of a nested step that is itself out of attempts."""
    if not raised:
        return False
    if any(error is known for known in raised):
        return True
    if isinstance(error, BaseExceptionGroup):
        return any(_comes_from(part, raised) for part in cast("BaseExceptionGroup[BaseException]", error).exceptions)
    return error.__cause__ is not None and _comes_from(error.__cause__, raised)


_ASYNC: Final[dict[CodeType, bool]] = {}


def is_async(fn: Callable[..., object]) -> bool:
    """Whether calling `fn` gives a coroutine."""
    code: CodeType | None = getattr(fn, "__code__", None)
    if code is None:
        return _unwrapped_is_async(fn)
    known = _ASYNC.get(code)
    if known is None:
        if len(_ASYNC) > 10_000:
            _ASYNC.clear()
        known = _ASYNC[code] = inspect.iscoroutinefunction(fn)
    return known


def _unwrapped_is_async(fn: Callable[..., Any]) -> bool:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004 - the method itself is asked


def _identity(fn: Callable[..., Any]) -> object:
    """What makes two functions the same for a repeated call: their code, not the closure made anew each time."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__code__", fn)
