"""What both kinds of step share: the facts of the running execution, and how calls become work for the engine."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import uuid
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Final, NoReturn, ParamSpec, TypeVar, cast

from stepwell._engine.body import BodyWork, is_async
from stepwell._engine.bridge import Mailbox, carried
from stepwell._engine.call import Call, current, current_scope, refuse_in_transaction
from stepwell._engine.elsewhere import ExecutorOption, checked_executor
from stepwell._engine.ending import end_now
from stepwell._engine.failure import check_reason, record_error
from stepwell._engine.outcome import Aborted, Failed
from stepwell._engine.runner import Runner
from stepwell._engine.transaction import LONGEST_US, TransactionWork
from stepwell._engine.undo import undo_option
from stepwell._engine.waits import SleepWork, ValueWork
from stepwell.clock import LAST_US, from_us, to_us
from stepwell.codec import NO_ANNOTATION, codec_for, codec_of_function, preview
from stepwell.duration import Duration
from stepwell.duration import to_us as duration_us
from stepwell.errors import InvalidInputError, NonRetryableError, SerializationError, WorkflowCodeError
from stepwell.ids import derived_random, derived_uuid, digest, quote_step_name
from stepwell.retry import Backoff, RetryPolicy, resolve

T = TypeVar("T")
P = ParamSpec("P")

log: Final = logging.getLogger("stepwell.step")


LONGEST_MESSAGE: Final = 2_000
"""Of `progress`, in characters; as for the messages of `fail` and `abort`."""


class _Unset:
    """The type of an argument that was not given, where None is a value."""

    def __repr__(self) -> str:
        return "…"


UNSET: Final = _Unset()


class Facts:
    """Facts about the running execution and step; the same in async and plain code."""

    __slots__ = ("_runner",)

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    @property
    def execution_id(self) -> str:
        """The id of the execution."""
        return self._runner.id

    @property
    def run_number(self) -> int:
        """Which run of the execution this is: 1, and one more for each restart, retry or fork."""
        return self._runner.run

    @property
    def created_at(self) -> datetime:
        """When the execution was triggered (UTC)."""
        return from_us(self._runner.claimed.created_at)

    @property
    def attempt(self) -> int:
        """The attempt of the step whose body is running, counted from 1; in workflow code 1."""
        return self._here().attempt

    @property
    def path(self) -> str:
        """The place of the running step, `parent/child`; in workflow code empty."""
        return self._here().path

    @property
    def index(self) -> int | None:
        """The number of the item inside a fan-out (in `batch` of the slice), else None."""
        here: Call | None = self._here()
        while here is not None and here.index is None:
            here = here.parent
        return None if here is None else here.index

    @property
    def idempotency_key(self) -> str:
        """A key for the other side of a side effect: the same in every attempt and replay, new after a restart.

        It is made of the execution's id, the step's path and the generation.
        """
        return f"{self._runner.id}/{self._here().path}/{self._runner.claimed.generation}"

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that adds the execution's id and the step's path to each record."""
        here = self._here()
        return logging.LoggerAdapter(log, {"execution_id": self._runner.id, "step": here.path})

    @property
    def env(self) -> Any:
        """The resources of the worker, as `@app.resource` named them."""
        return self._runner.host.resources

    def fail(self, message: str) -> NoReturn:
        """End the execution now as `failed` with this message, from wherever in its code.

        A plain call, also in async code. It is decided before this raises, so no `except` can swallow it; what it raises
        derives from CancelledError, and whatever user code makes of that is ignored. Nothing is tried again. The undos of
        completed steps run, then `on_error`; the step whose body called this is not recorded as completed. Inside an undo
        or `on_error` it ends only that: the run fails with its first error. A replay meets the same call again.

        Args:
            message: At most 2,000 characters; the message of the NonRetryableError that is recorded.

        Raises:
            InvalidInputError: The message is no text, too long, or cannot be stored.
            WorkflowCodeError: The step belongs to another execution, or its execution has ended.
        """
        scope = self._scope("step.fail")
        error = NonRetryableError(check_reason(message, "The message of step.fail()"))
        end_now(scope, Failed(record_error(_raised_by_caller(error))))

    def abort(self, reason: str | None = None) -> NoReturn:
        """End the execution now as `aborted`: nothing else runs, no undo and no `on_error`.

        Otherwise as `fail`. `result()` raises ExecutionAbortedError with the reason.

        Args:
            reason: At most 2,000 characters; kept with the execution.
        """
        scope = self._scope("step.abort")
        end_now(scope, Aborted(None if reason is None else check_reason(reason, "The reason of step.abort()")))

    def uuid(self, name: str) -> uuid.UUID:
        """A UUID made from (execution, run, scope, name): the same on every replay, nothing is written."""
        return derived_uuid("uuid", *self._place(name))

    def random(self, name: str) -> float:
        """A number in [0, 1) made from (execution, run, scope, name): the same on every replay, nothing is written."""
        return derived_random("random", *self._place(name))

    def carry(self, fn: Callable[P, T]) -> Callable[P, T]:
        """Wrap a function so that step calls work in it when it runs in a thread of your own.

        The context is taken now; pass the wrapped function to your pool or `threading.Thread`.
        """
        here = self._here()
        context = contextvars.copy_context()

        @functools.wraps(fn)
        def carried_fn(*args: P.args, **kwargs: P.kwargs) -> T:
            def run() -> T:
                current.set(here)
                carried.set(True)
                return fn(*args, **kwargs)

            return context.copy().run(run)

        return carried_fn

    def _here(self) -> Call:
        scope = current.get(None)
        return scope if scope is not None and scope.runner is self._runner else self._runner.root

    def _place(self, name: str) -> tuple[object, ...]:
        return self._runner.id, self._runner.run, self._here().path, quote_step_name(name)

    def _scope(self, what: str) -> Call:
        scope = current_scope(what)
        if scope.work is not None:
            refuse_in_transaction(what, scope)
        if scope.runner is not self._runner:
            raise WorkflowCodeError(
                f"{what} of execution {self._runner.id!r} was called inside execution {scope.runner.id!r}. Use the step that was passed to the running workflow, or current_step()."
            )
        return scope

    def _plain_body(self, name: str, fn: Callable[..., Any], args: tuple[object, ...]) -> BodyWork:
        """A body without options: most are, and this stands in the way of every step."""
        if not callable(fn):
            raise _not_a_function("step.run", fn)
        runner = self._runner
        host = runner.host
        codec = codec_of_function(fn)
        if host.stubs:
            fn = host.stubs.get(name, fn)
        return BodyWork(
            fn, args, codec, runner.policy, None, preview(args) if host.record_arguments else None, None, None
        )

    def _body(
        self,
        what: str,
        name: str,
        fn: Callable[..., Any],
        args: tuple[object, ...],
        *,
        retries: int | RetryPolicy | None,
        retry_delay: Duration | None,
        backoff: Backoff | None,
        max_delay: Duration | None,
        retry_if: Callable[[Exception], bool] | None,
        timeout: Duration | None,
        input: object,
        returns: object,
        executor: ExecutorOption | None,
        undo: Callable[[Any], object] | None = None,
        mailbox: Mailbox | None = None,
    ) -> BodyWork:
        if not callable(fn):
            raise _not_a_function(what, fn)
        runner = self._runner
        policy = runner.policy
        if not (retries is None and retry_delay is None and backoff is None and max_delay is None and retry_if is None):
            policy = resolve(
                policy, retries=retries, delay=retry_delay, backoff=backoff, max_delay=max_delay, retry_if=retry_if
            )
        pool = None
        if executor is not None:
            pool, mailbox = checked_executor(executor, what, fn), None
        codec = codec_of_function(fn) if returns is UNSET else codec_of_function(fn, returns)
        if name in runner.host.stubs:
            # A stand-in is a function of the test: it runs here.
            fn, pool = runner.host.stubs[name], None
        return BodyWork(
            fn,
            args,
            codec,
            policy,
            None if timeout is None else duration_us(timeout, what="timeout", minimum=1),
            self._input(what, name, args, input),
            pool,
            mailbox,
            None if undo is None else undo_option(f"{what}({name!r})", undo, codec, policy),
        )

    def _transaction(
        self, name: str, fn: Callable[..., Any], args: tuple[object, ...], options: Mapping[str, Any]
    ) -> TransactionWork:
        """The work of `transaction`; `options` are those of `run` without `executor`."""
        body = self._body("step.transaction", name, fn, args, **options, executor=None)
        if body.timeout is not None and body.timeout > LONGEST_US:
            raise InvalidInputError(
                f"timeout of step.transaction({name!r}) may be at most {LONGEST_US // 1_000_000} s, got {options['timeout']!r}: nobody else can write meanwhile."
            )
        run = body.fn
        if is_async(run) and not self._runner.host.journal.takes_async_transactions:
            if run is fn:
                raise TypeError(
                    f"step.transaction({name!r}) needs a plain function on SQLite, where it runs in the thread of the connection; {fn!r} is async."
                )
            # A stub of the test kit may always be async.
            run = _driven(run)
        return TransactionWork(
            run, args, body.codec, body.policy, body.timeout or LONGEST_US, body.input, None, None, body.undo
        )

    def _input(self, what: str, name: str, args: tuple[object, ...], input: object) -> str | None:
        if input is not UNSET:
            try:
                return codec_for(type(input)).encode(input)
            except SerializationError as error:
                raise SerializationError(f"The input= of {what}({name!r}) cannot be recorded: {error}") from error
        return preview(args) if self._runner.host.record_arguments else None


def _driven(stub: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    return lambda *args: asyncio.run(stub(*args))


def _not_a_function(what: str, fn: object) -> TypeError:
    return TypeError(
        f"{what} needs a function as its second argument, got {fn!r}. Pass the function itself and its arguments after it."
    )


def _raised_by_caller(error: NonRetryableError) -> NonRetryableError:
    """The error with a traceback that shows where the user's code made it."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = None if frame is None else frame.f_back
    if frame is not None:
        error.__traceback__ = TracebackType(None, frame, frame.f_lasti, frame.f_lineno)
    return error


def pause_work(duration: Duration, *, nameless: bool) -> SleepWork:
    """The work of `sleep`."""
    length = duration_us(duration, what="duration", minimum=None)
    if nameless and isinstance(duration, int | float) and duration >= 1000:
        log.warning(
            "step.sleep(%r) sleeps for %r seconds. Durations are in seconds here; write '%g ms' if milliseconds were meant",
            duration,
            duration,
            duration,
        )
    return SleepWork(preview((duration,)), lambda now: now + length)


def until_work(when: datetime) -> SleepWork:
    """The work of `sleep_until`."""
    if not isinstance(when, datetime):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise InvalidInputError(f"sleep_until needs an aware datetime, got {when!r}.")
    if when.tzinfo is None or when.utcoffset() is None:
        raise InvalidInputError(
            f"sleep_until needs an aware datetime, got {when!r} without a time zone. Write datetime.now(UTC) + …, or attach a ZoneInfo."
        )
    wake_at = to_us(when)
    if wake_at > LAST_US:
        raise InvalidInputError(f"sleep_until needs a datetime before the year 10000 in UTC, got {when!r}.")
    return SleepWork(preview((when,)), lambda now: wake_at)


def progress_work(message: object, fraction: float | None) -> tuple[str, ValueWork]:
    """The engine's name and the work of `progress`."""
    if not isinstance(message, str) or not message:
        raise InvalidInputError(f"A progress message must be text, got {message!r}.")
    if len(message) > LONGEST_MESSAGE:
        raise InvalidInputError(
            f"A progress message must be text of at most {LONGEST_MESSAGE:,} characters, got {len(message):,}."
        )
    if fraction is not None and not (isinstance(fraction, int | float) and 0 <= fraction <= 1):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise InvalidInputError(f"fraction must be a number between 0 and 1, got {fraction!r}.")
    codec_for(NO_ANNOTATION).encode(message)
    milestone = {"message": message, "fraction": fraction}
    return f"#progress-{digest(message)}", ValueWork("progress", lambda _: milestone, lambda _: None)


def _read_clock(call: Call) -> object:
    return call.runner.clock.now()


def now_work() -> ValueWork:
    """The work of `now`."""
    return ValueWork("now", _read_clock, lambda value: from_us(cast("int", value)))


def sleep_arguments(
    scope: Call, name: Duration, duration: Duration | None, in_sequence: bool
) -> tuple[str | None, SleepWork]:
    """The engine's name, if the user gave none, and the work of `sleep` in both its forms."""
    if duration is not None:
        return None, pause_work(duration, nameless=False)
    if not in_sequence:
        raise InvalidInputError(
            f"step.sleep({name!r}) without a name works in sequential code only, for branches run in any order. Write step.sleep('a-name', {name!r})."
        )
    work = pause_work(name, nameless=True)
    count = sum(key.startswith("#sleep-") for key in scope.calls or ()) + 1
    return f"#sleep-{count}", work
