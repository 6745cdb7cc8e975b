"""`SyncStep`: what plain workflow code calls; each call blocks its thread."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Final, Literal, ParamSpec, TypeVar, TypeVarTuple, cast, overload

from stepwell._engine.bridge import Mailbox, Strand, call_from_thread, carried, check_strand, strand
from stepwell._engine.call import Call
from stepwell._engine.choice import RaceWork, WithinWork
from stepwell._engine.emit import emit, emit_from_thread, text_of
from stepwell._engine.invoke import invoke
from stepwell.duration import Duration
from stepwell.duration import to_us as duration_us
from stepwell.errors import InvalidInputError
from stepwell.execution import Execution
from stepwell.facts import UNSET, now_work, progress_work, sleep_arguments, until_work
from stepwell.ids import quote_step_name
from stepwell.retry import Backoff, RetryPolicy
from stepwell.sync_fanouts import SyncFanOuts
from stepwell.verbs import await_work, execute_work, listen_work, start_work
from stepwell.workflow import Workflow

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")


class SyncStep(SyncFanOuts):
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
        undo: Callable[[T], object] | None = None,
        executor: Literal["thread", "process"] | concurrent.futures.Executor | None = None,
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
        undo: Callable[[T], object] | None = None,
        executor: Literal["thread", "process"] | concurrent.futures.Executor | None = None,
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
        undo: Callable[[T], object] | None = None,
        executor: Literal["thread", "process"] | concurrent.futures.Executor | None = None,
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
        undo: Callable[[Any], object] | None = None,
        executor: Literal["thread", "process"] | concurrent.futures.Executor | None = None,
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

    @overload
    def transaction(
        self,
        name: str,
        fn: Callable[[Any, *Ts], object],
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
        undo: Callable[[T], object] | None = None,
    ) -> T: ...

    @overload
    def transaction(
        self,
        name: str,
        fn: Callable[[Any, *Ts], T],
        /,
        *args: *Ts,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        backoff: Backoff | None = None,
        max_delay: Duration | None = None,
        retry_if: Callable[[Exception], bool] | None = None,
        timeout: Duration | None = None,
        input: object = ...,
        undo: Callable[[T], object] | None = None,
    ) -> T: ...

    @overload
    def transaction(
        self,
        name: str,
        fn: Callable[[Any, *Ts], object],
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
        undo: Callable[[Any], object] | None = None,
    ) -> Any: ...

    def transaction(self, name: str, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """Run `fn(connection, *args)` inside the transaction that records the step, as `Step.transaction`.

        On SQLite it runs in the thread that writes, not in this one.
        """
        scope = self._scope("step.transaction")
        given = {**_TRANSACTION_DEFAULTS, **options}
        if len(given) > len(_TRANSACTION_DEFAULTS):
            unknown = ", ".join(sorted(given.keys() - _TRANSACTION_DEFAULTS.keys()))
            raise TypeError(
                f"step.transaction() got unknown options: {unknown} (known: {', '.join(_TRANSACTION_DEFAULTS)})."
            )
        return call_from_thread(
            "step.transaction",
            lambda _: invoke(scope, name, self._transaction(name, fn, args, given), inline=True),
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
        place, work = sleep_arguments(scope, name, duration, in_sequence)
        call_from_thread("step.sleep", lambda _: invoke(scope, cast("str", name), work, place=place, inline=True))

    def sleep_until(self, name: str, when: datetime, /) -> None:
        """Pause durably until a point in time, as `Step.sleep_until`."""
        scope, work = self._scope("step.sleep_until"), until_work(when)
        call_from_thread("step.sleep_until", lambda _: invoke(scope, name, work, inline=True))

    @overload
    def listen(
        self, name: str, /, *, event: str | None = None, timeout: Duration | None = None, returns: type[T]
    ) -> T: ...

    @overload
    def listen(
        self, name: str, /, *, event: str | None = None, timeout: Duration | None = None, returns: object = None
    ) -> Any: ...

    def listen(
        self, name: str, /, *, event: str | None = None, timeout: Duration | None = None, returns: object = None
    ) -> Any:
        """Wait for an event and give its payload, as `Step.listen`."""
        scope, work = self._scope("step.listen"), listen_work(name, event, timeout, returns)
        return call_from_thread("step.listen", lambda _: invoke(scope, name, work, inline=True))

    @overload
    def execute_workflow(
        self, name: str, workflow: Workflow[None, Out], input: None = None, /, *, id: str | None = None
    ) -> Out: ...

    @overload
    def execute_workflow(
        self, name: str, workflow: Workflow[In, Out], input: In, /, *, id: str | None = None
    ) -> Out: ...

    def execute_workflow(
        self, name: str, workflow: Workflow[Any, Any], input: Any = None, /, *, id: str | None = None
    ) -> Any:
        """Start a child exactly once, wait for its end, and give its output, as `Step.execute_workflow`."""
        scope = self._scope("step.execute_workflow")
        work = execute_work(scope, workflow, input, id)
        return call_from_thread("step.execute_workflow", lambda _: invoke(scope, name, work, inline=True))

    @overload
    def start_workflow(
        self,
        name: str,
        workflow: Workflow[None, Out],
        input: None = None,
        /,
        *,
        id: str | None = None,
        detached: bool = False,
    ) -> Execution[Out]: ...

    @overload
    def start_workflow(
        self, name: str, workflow: Workflow[In, Out], input: In, /, *, id: str | None = None, detached: bool = False
    ) -> Execution[Out]: ...

    def start_workflow(
        self,
        name: str,
        workflow: Workflow[Any, Any],
        input: Any = None,
        /,
        *,
        id: str | None = None,
        detached: bool = False,
    ) -> Execution[Any]:
        """Start a child exactly once without waiting for it, as `Step.start_workflow`."""
        scope = self._scope("step.start_workflow")
        work = start_work(scope, workflow, input, id, detached=detached)
        return call_from_thread("step.start_workflow", lambda _: invoke(scope, name, work, inline=True))

    @overload
    def wait_for_workflow(self, name: str, execution: Execution[Out], /) -> Out: ...

    @overload
    def wait_for_workflow(self, name: str, execution: str, /) -> Any: ...

    def wait_for_workflow(self, name: str, execution: Execution[Any] | str, /) -> Any:
        """Wait for the end of any execution and give its output, as `Step.wait_for_workflow`."""
        scope = self._scope("step.wait_for_workflow")
        work = await_work(scope, execution)
        return call_from_thread("step.wait_for_workflow", lambda _: invoke(scope, name, work, inline=True))

    def within(self, name: str, duration: Duration, block: Callable[[], T], /) -> T:
        """Run a function, in a thread of its own, with a durable deadline, as `Step.within`."""
        _check_block("step.within", block)
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
        for block in branches.values():
            _check_block("step.race", block)
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
        place, work = progress_work(message, fraction)
        call_from_thread("step.progress", lambda _: invoke(scope, message, work, place=place, inline=True))

    def emit(self, stream: str, value: object, /) -> None:
        """Append a value to a durable stream, as `Step.emit`."""
        scope = self._scope("step.emit")
        text = text_of(scope.runner, stream, value)
        if not emit_from_thread(scope, stream, text):
            call_from_thread("step.emit", lambda _: emit(scope, stream, text))

    def now(self, name: str, /) -> datetime:
        """The current time (UTC), recorded: a replay gives the same."""
        scope = self._scope("step.now")
        return call_from_thread("step.now", lambda _: invoke(scope, name, now_work(), inline=True))


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
    "undo": None,
}


_TRANSACTION_DEFAULTS: Final = {name: value for name, value in _RUN_DEFAULTS.items() if name != "executor"}


def _check_block(what: str, block: object) -> None:
    if not callable(block):
        raise TypeError(f"{what} of a plain workflow takes functions without arguments, got {block!r}. Write a lambda.")


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
