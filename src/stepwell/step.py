"""What workflow code calls: `Step` in async functions, `SyncStep`, with the same verbs, in plain ones."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import logging
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any, Final, Literal, ParamSpec, TypeVar, TypeVarTuple, cast, overload

from stepwell._engine.body import BodyWork
from stepwell._engine.bridge import Mailbox, Strand, call_from_thread, carried, check_strand, strand
from stepwell._engine.call import Call, current, current_scope
from stepwell._engine.choice import RaceWork, WithinWork
from stepwell._engine.invoke import invoke
from stepwell._engine.runner import Runner
from stepwell._engine.waits import SleepWork, ValueWork
from stepwell.clock import from_us, to_us
from stepwell.codec import NO_ANNOTATION, codec_for, codec_of_function, preview
from stepwell.duration import Duration
from stepwell.duration import to_us as duration_us
from stepwell.errors import InvalidInputError, SerializationError, WorkflowCodeError
from stepwell.ids import derived_random, derived_uuid, digest, quote_step_name
from stepwell.retry import Backoff, RetryPolicy, resolve

T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

log: Final = logging.getLogger("stepwell.step")


class _Unset:
    """The type of an argument that was not given, where None is a value."""

    def __repr__(self) -> str:
        return "…"


UNSET: Final = _Unset()


class _Facts:
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
        """The number of the item inside a fan-out, else None."""
        return self._here().index

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
        executor: Literal["thread"] | concurrent.futures.Executor | None,
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
            pool, mailbox = _pool(executor), None
        codec = codec_of_function(fn) if returns is UNSET else codec_of_function(fn, returns)
        if runner.host.stubs:
            fn = runner.host.stubs.get(name, fn)
        return BodyWork(
            fn,
            args,
            codec,
            policy,
            None if timeout is None else duration_us(timeout, what="timeout", minimum=1),
            self._input(what, name, args, input),
            pool,
            mailbox,
        )

    def _input(self, what: str, name: str, args: tuple[object, ...], input: object) -> str | None:
        if input is not UNSET:
            try:
                return codec_for(type(input)).encode(input)
            except SerializationError as error:
                raise SerializationError(f"The input= of {what}({name!r}) cannot be recorded: {error}") from error
        return preview(args) if self._runner.host.record_arguments else None


def _not_a_function(what: str, fn: object) -> TypeError:
    return TypeError(
        f"{what} needs a function as its second argument, got {fn!r}. Pass the function itself and its arguments after it."
    )


def _pool(executor: object) -> concurrent.futures.Executor | None:
    if executor == "thread":
        return None
    if isinstance(executor, concurrent.futures.Executor):
        return executor
    raise InvalidInputError(f"executor must be 'thread' or a concurrent.futures.Executor, got {executor!r}.")


def _pause(duration: Duration, *, nameless: bool) -> SleepWork:
    length = duration_us(duration, what="duration", minimum=None)
    if nameless and isinstance(duration, int | float) and duration >= 1000:
        log.warning(
            "step.sleep(%r) sleeps for %r seconds. Durations are in seconds here; write '%g ms' if milliseconds were meant",
            duration,
            duration,
            duration,
        )
    return SleepWork(preview((duration,)), lambda now: now + length)


def _until(when: datetime) -> SleepWork:
    if not isinstance(when, datetime):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise InvalidInputError(f"sleep_until needs an aware datetime, got {when!r}.")
    if when.tzinfo is None or when.utcoffset() is None:
        raise InvalidInputError(
            f"sleep_until needs an aware datetime, got {when!r} without a time zone. Write datetime.now(UTC) + …, or attach a ZoneInfo."
        )
    wake_at = to_us(when)
    return SleepWork(preview((when,)), lambda now: wake_at)


def _progress(message: object, fraction: float | None) -> tuple[str, ValueWork]:
    if not isinstance(message, str) or not message:
        raise InvalidInputError(f"A progress message must be text, got {message!r}.")
    if fraction is not None and not 0 <= fraction <= 1:
        raise InvalidInputError(f"fraction must be between 0 and 1, got {fraction!r}.")
    codec_for(NO_ANNOTATION).encode(message)
    milestone = {"message": message, "fraction": fraction}
    return f"#progress-{digest(message)}", ValueWork("progress", lambda _: milestone, lambda _: None)


def _read_clock(call: Call) -> object:
    return call.runner.clock.now()


def _now() -> ValueWork:
    return ValueWork("now", _read_clock, lambda value: from_us(cast("int", value)))


class Step(_Facts):
    """The verbs of async workflow code.

    Each verb is durable: its outcome is on disk before the call returns, and a replay gives the same outcome without doing
    anything again. Calls may be made one after the other or in parallel branches.
    """

    __slots__ = ()

    @overload
    def run(
        self,
        name: str,
        fn: Callable[[*Ts], Coroutine[Any, Any, Any]] | Callable[[*Ts], object],
        /,
        *args: *Ts,
        returns: type[T],
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        backoff: Backoff | None = None,
        max_delay: Duration | None = None,
        retry_if: Callable[[Exception], bool] | None = None,
        timeout: Duration | None = None,
        input: object = ...,
        executor: Literal["thread"] | concurrent.futures.Executor | None = None,
    ) -> Coroutine[Any, Any, T]: ...

    @overload
    def run(
        self,
        name: str,
        fn: Callable[[*Ts], Coroutine[Any, Any, T]],
        /,
        *args: *Ts,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        backoff: Backoff | None = None,
        max_delay: Duration | None = None,
        retry_if: Callable[[Exception], bool] | None = None,
        timeout: Duration | None = None,
        input: object = ...,
        executor: Literal["thread"] | concurrent.futures.Executor | None = None,
    ) -> Coroutine[Any, Any, T]: ...

    @overload
    def run(
        self,
        name: str,
        fn: Callable[[*Ts], T],
        /,
        *args: *Ts,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        backoff: Backoff | None = None,
        max_delay: Duration | None = None,
        retry_if: Callable[[Exception], bool] | None = None,
        timeout: Duration | None = None,
        input: object = ...,
        executor: Literal["thread"] | concurrent.futures.Executor | None = None,
    ) -> Coroutine[Any, Any, T]: ...

    @overload
    def run(
        self,
        name: str,
        fn: Callable[[*Ts], object],
        /,
        *args: *Ts,
        returns: object,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        backoff: Backoff | None = None,
        max_delay: Duration | None = None,
        retry_if: Callable[[Exception], bool] | None = None,
        timeout: Duration | None = None,
        input: object = ...,
        executor: Literal["thread"] | concurrent.futures.Executor | None = None,
    ) -> Coroutine[Any, Any, Any]: ...

    def run(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        backoff: Backoff | None = None,
        max_delay: Duration | None = None,
        retry_if: Callable[[Exception], bool] | None = None,
        timeout: Duration | None = None,
        input: object = UNSET,
        returns: object = UNSET,
        executor: Literal["thread"] | concurrent.futures.Executor | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Run `fn(*args)` once and keep its result.

        The result is durable before this returns. When the execution continues after a crash, a recorded step gives its
        result, or raises its recorded error, without running again; a body that was interrupted runs again. The value is
        always the one that a replay would give: decoded from what was stored, as the type of the return annotation.

        Args:
            name: Names the step within its scope, 1 to 200 characters. The same name again gives the first result.
            fn: Async functions run in the event loop, others in a thread.
            args: Positional arguments of `fn`; for keyword arguments use `functools.partial` or `@step.do`.
            retries: Attempts after the first, or a whole RetryPolicy; None takes the workflow's.
            retry_delay: Wait before the second attempt.
            backoff: How the wait grows: "exponential", "linear" or "constant".
            max_delay: The longest wait.
            retry_if: Asked with the error of a failed attempt; False fails the step at once.
            timeout: Longest time for one attempt; then it is cancelled (a thread goes on unheard) and counts as failed.
            input: Recorded as the step's input instead of a preview of the arguments.
            returns: The type of the result, if `fn` has no (good) return annotation.
            executor: "thread", or a `concurrent.futures.Executor` in which `fn` runs.

        Raises:
            Exception: Whatever the last attempt raised; StepTimeoutError for an attempt that took too long;
                StepFailedError for an error that cannot be rebuilt from its record.
            SerializationError: The result cannot be stored and restored. It is not tried again.
        """
        scope = self._scope("step.run")
        if (
            retries is retry_delay is backoff is max_delay is retry_if is timeout is executor is None
            and input is returns is UNSET
        ):
            return invoke(scope, name, self._plain_body(name, fn, args))
        work = self._body(
            "step.run",
            name,
            fn,
            args,
            retries=retries,
            retry_delay=retry_delay,
            backoff=backoff,
            max_delay=max_delay,
            retry_if=retry_if,
            timeout=timeout,
            input=input,
            returns=returns,
            executor=executor,
        )
        return invoke(scope, name, work)

    def do(
        self,
        name: str,
        /,
        *refused: object,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        backoff: Backoff | None = None,
        max_delay: Duration | None = None,
        retry_if: Callable[[Exception], bool] | None = None,
        timeout: Duration | None = None,
        input: object = UNSET,
        returns: object = UNSET,
        executor: Literal["thread"] | concurrent.futures.Executor | None = None,
    ) -> _Do:
        """Decorate a local function so that calling it runs it as the step `name`; options as in `run`.

        The decorated function is async, whether the body is or not, and takes the body's arguments.
        """
        if refused:
            raise TypeError(
                f"step.do({name!r}, …) decorates a function: write @step.do({name!r}) above it, or call step.run({name!r}, fn, …)."
            )
        quote_step_name(name)
        options: dict[str, Any] = {
            "retries": retries,
            "retry_delay": retry_delay,
            "backoff": backoff,
            "max_delay": max_delay,
            "retry_if": retry_if,
            "timeout": timeout,
            "input": input,
            "returns": returns,
            "executor": executor,
        }
        return _Do(self, name, options)

    @overload
    async def sleep(self, name: str, duration: Duration, /) -> None: ...

    @overload
    async def sleep(self, duration: Duration, /) -> None: ...

    async def sleep(self, name: Duration, duration: Duration | None = None, /) -> None:
        """Pause durably, surviving restarts.

        The wake-up time is stored before anything waits and never changes; waits of more than 5 seconds leave memory. On
        replay a past wake-up returns at once. Zero and negative durations return immediately.

        Args:
            name: Names the pause in its scope; may be left out in sequential code (then pauses are counted).
            duration: Seconds, a timedelta, or text such as "30 seconds" or "1h30m".
        """
        scope = self._scope("step.sleep")
        place, work = _sleep_arguments(scope, name, duration, asyncio.current_task() is scope.task)
        await invoke(scope, cast("str", name), work, place=place)

    async def sleep_until(self, name: str, when: datetime, /) -> None:
        """Pause durably until a point in time; one in the past returns at once.

        Args:
            name: Names the pause in its scope.
            when: An aware datetime; naive ones are refused.
        """
        await invoke(self._scope("step.sleep_until"), name, _until(when))

    async def within(self, name: str, duration: Duration, coro: Coroutine[Any, Any, T], /) -> T:
        """Run workflow code with a durable deadline, like `asyncio.timeout` that survives restarts.

        The deadline is stored first and never changes. What happened is recorded, so a replay takes the same way: a block
        that was too late is closed unstarted and raises again. Step calls in `coro` belong to the surrounding scope.

        Raises:
            StepTimeoutError: The deadline passed first; the block was cancelled.
        """
        _check_branch("step.within", coro)
        work = WithinWork(coro)
        try:
            work.set_length(duration_us(duration, what="duration", minimum=0))
            way: Awaitable[T] = await invoke(self._scope("step.within"), name, work)
            return await way
        finally:
            work.close_unstarted()

    async def race(self, name: str, /, **branches: Coroutine[Any, Any, T]) -> tuple[str, T]:
        """Run branches of workflow code until the first ends; durable, so a replay has the same winner.

        The winner is recorded, the others are cancelled. Step calls in the branches belong to the surrounding scope.

        Returns:
            The winner's keyword and value. A winner that raised raises here.
        """
        if not branches:
            raise InvalidInputError(f"step.race({name!r}) needs at least one branch: key=coroutine.")
        for branch in branches.values():
            _check_branch("step.race", branch)
        work = RaceWork(branches)
        try:
            way: Awaitable[tuple[str, T]] = await invoke(self._scope("step.race"), name, work)
            return await way
        finally:
            work.close_unstarted()

    async def progress(self, message: str, /, *, fraction: float | None = None) -> None:
        """Put a milestone into the history, once for each text in its scope; a replay writes nothing.

        Args:
            message: What has been reached.
            fraction: How much is done, 0 to 1.
        """
        place, work = _progress(message, fraction)
        await invoke(self._scope("step.progress"), message, work, place=place)

    async def now(self, name: str, /) -> datetime:
        """The current time (UTC), recorded: a replay gives the same."""
        return await invoke(self._scope("step.now"), name, _now())


def _check_branch(what: str, branch: object) -> None:
    if not asyncio.iscoroutine(branch):
        raise TypeError(f"{what} takes coroutines, got {branch!r}. Call the async function: {what}(…, work(…)).")


class _Do:
    """What `@step.do(name)` is before it has its function."""

    def __init__(self, step: Step, name: str, options: dict[str, Any]) -> None:
        self._step = step
        self._name = name
        self._options = options

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]: ...

    @overload
    def __call__(self, fn: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        if not callable(fn):
            raise TypeError(f"@step.do({self._name!r}) decorates a function, got {fn!r}.")

        @functools.wraps(fn)
        async def run(*args: Any, **kwargs: Any) -> Any:
            bound = functools.partial(fn, **kwargs) if kwargs else fn
            return await self._step.run(self._name, bound, *args, **self._options)

        return run


def _sleep_arguments(
    scope: Call, name: Duration, duration: Duration | None, in_sequence: bool
) -> tuple[str | None, SleepWork]:
    if duration is not None:
        return None, _pause(duration, nameless=False)
    if not in_sequence:
        raise InvalidInputError(
            f"step.sleep({name!r}) without a name works in sequential code only, for branches run in any order. Write step.sleep('a-name', {name!r})."
        )
    work = _pause(name, nameless=True)
    count = sum(key.startswith("#sleep-") for key in scope.calls or ()) + 1
    return f"#sleep-{count}", work


class SyncStep(_Facts):
    """The verbs of `Step` for plain functions: each call blocks its thread."""

    __slots__ = ()

    def _scope(self, what: str) -> Call:
        check_strand()
        return super()._scope(what)

    @overload
    def run(
        self,
        name: str,
        fn: Callable[[*Ts], object],
        /,
        *args: *Ts,
        returns: type[T],
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        backoff: Backoff | None = None,
        max_delay: Duration | None = None,
        retry_if: Callable[[Exception], bool] | None = None,
        timeout: Duration | None = None,
        input: object = ...,
        executor: Literal["thread"] | concurrent.futures.Executor | None = None,
    ) -> T: ...

    @overload
    def run(
        self,
        name: str,
        fn: Callable[[*Ts], Coroutine[Any, Any, T]],
        /,
        *args: *Ts,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        backoff: Backoff | None = None,
        max_delay: Duration | None = None,
        retry_if: Callable[[Exception], bool] | None = None,
        timeout: Duration | None = None,
        input: object = ...,
        executor: Literal["thread"] | concurrent.futures.Executor | None = None,
    ) -> T: ...

    @overload
    def run(
        self,
        name: str,
        fn: Callable[[*Ts], T],
        /,
        *args: *Ts,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        backoff: Backoff | None = None,
        max_delay: Duration | None = None,
        retry_if: Callable[[Exception], bool] | None = None,
        timeout: Duration | None = None,
        input: object = ...,
        executor: Literal["thread"] | concurrent.futures.Executor | None = None,
    ) -> T: ...

    @overload
    def run(
        self,
        name: str,
        fn: Callable[[*Ts], object],
        /,
        *args: *Ts,
        returns: object,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        backoff: Backoff | None = None,
        max_delay: Duration | None = None,
        retry_if: Callable[[Exception], bool] | None = None,
        timeout: Duration | None = None,
        input: object = ...,
        executor: Literal["thread"] | concurrent.futures.Executor | None = None,
    ) -> Any: ...

    def run(self, name: str, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """Run `fn(*args)` once and keep its result, as `Step.run`; plain functions run in this same thread."""
        scope = self._scope("step.run")
        given = {**_RUN_DEFAULTS, **options}
        if len(given) > len(_RUN_DEFAULTS):
            unknown = ", ".join(sorted(given.keys() - _RUN_DEFAULTS.keys()))
            raise TypeError(f"step.run() got unknown options: {unknown} (known: {', '.join(_RUN_DEFAULTS)}).")
        return call_from_thread(
            "step.run",
            lambda mailbox: invoke(
                scope, name, self._body("step.run", name, fn, args, mailbox=mailbox, **given), inline=True
            ),
        )

    def do(self, name: str, /, *refused: object, **options: Any) -> _SyncDo:
        """Decorate a local function so that calling it runs it as the step `name`; options as in `run`."""
        if refused:
            raise TypeError(
                f"step.do({name!r}, …) decorates a function: write @step.do({name!r}) above it, or call step.run({name!r}, fn, …)."
            )
        quote_step_name(name)
        return _SyncDo(self, name, options)

    @overload
    def sleep(self, name: str, duration: Duration, /) -> None: ...

    @overload
    def sleep(self, duration: Duration, /) -> None: ...

    def sleep(self, name: Duration, duration: Duration | None = None, /) -> None:
        """Pause durably, as `Step.sleep`."""
        scope = self._scope("step.sleep")
        in_sequence = strand.get() is None and not carried.get()
        place, work = _sleep_arguments(scope, name, duration, in_sequence)
        call_from_thread("step.sleep", lambda _: invoke(scope, cast("str", name), work, place=place, inline=True))

    def sleep_until(self, name: str, when: datetime, /) -> None:
        """Pause durably until a point in time, as `Step.sleep_until`."""
        scope, work = self._scope("step.sleep_until"), _until(when)
        call_from_thread("step.sleep_until", lambda _: invoke(scope, name, work, inline=True))

    def within(self, name: str, duration: Duration, block: Callable[[], T], /) -> T:
        """Run a function, in a thread of its own, with a durable deadline, as `Step.within`."""
        scope = self._scope("step.within")
        length = duration_us(duration, what="duration", minimum=0)

        async def choose(_: Mailbox) -> T:
            side = Strand()
            work = WithinWork(_in_thread(scope, side, block), lambda _: side.lose())
            work.set_length(length)
            try:
                return await (await invoke(scope, name, work, inline=True))
            finally:
                work.close_unstarted()

        return call_from_thread("step.within", choose)

    def race(self, name: str, /, **branches: Callable[[], T]) -> tuple[str, T]:
        """Run functions, each in a thread of its own, until the first ends, as `Step.race`."""
        if not branches:
            raise InvalidInputError(f"step.race({name!r}) needs at least one branch: key=function.")
        scope = self._scope("step.race")

        async def choose(_: Mailbox) -> tuple[str, T]:
            sides = {key: Strand() for key in branches}
            sides_run = {key: _in_thread(scope, sides[key], block) for key, block in branches.items()}
            work = RaceWork(sides_run, lambda key: sides[key].lose())
            try:
                return await (await invoke(scope, name, work, inline=True))
            finally:
                work.close_unstarted()

        return call_from_thread("step.race", choose)

    def progress(self, message: str, /, *, fraction: float | None = None) -> None:
        """Put a milestone into the history, as `Step.progress`."""
        scope = self._scope("step.progress")
        place, work = _progress(message, fraction)
        call_from_thread("step.progress", lambda _: invoke(scope, message, work, place=place, inline=True))

    def now(self, name: str, /) -> datetime:
        """The current time (UTC), recorded: a replay gives the same."""
        scope = self._scope("step.now")
        return call_from_thread("step.now", lambda _: invoke(scope, name, _now(), inline=True))


_RUN_DEFAULTS: Final[dict[str, Any]] = {
    "retries": None,
    "retry_delay": None,
    "backoff": None,
    "max_delay": None,
    "retry_if": None,
    "timeout": None,
    "input": UNSET,
    "returns": UNSET,
    "executor": None,
}


class _SyncDo:
    """What `@step.do(name)` of a SyncStep is before it has its function."""

    def __init__(self, step: SyncStep, name: str, options: dict[str, Any]) -> None:
        self._step = step
        self._name = name
        self._options = options

    def __call__(self, fn: Callable[P, T]) -> Callable[P, T]:
        if not callable(fn):
            raise TypeError(f"@step.do({self._name!r}) decorates a function, got {fn!r}.")

        @functools.wraps(fn)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            bound: Callable[..., Any] = functools.partial(fn, **kwargs) if kwargs else fn
            call: Any = self._step.run
            result: Any = call(self._name, bound, *args, **self._options)
            return result

        return run


async def _in_thread(scope: Call, side: Strand, block: Callable[[], T]) -> T:
    def run() -> object:
        strand.set(side)
        return block()

    return cast("T", await scope.runner.in_thread(run))


@overload
def current_step() -> Step: ...


@overload
def current_step(kind: type[SyncStep], /) -> SyncStep: ...


def current_step(kind: type[Step | SyncStep] | None = None, /) -> Step | SyncStep:
    """The step of the running code: its facts, and the verbs for nested steps.

    Args:
        kind: `SyncStep` in plain functions that call verbs; facts need none.

    Raises:
        NoStepContextError: No workflow is running here.
    """
    scope = current_scope("current_step()")
    return (kind or Step)(scope.runner)
