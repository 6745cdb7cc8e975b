"""`Step`: what async workflow code calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any, Literal, ParamSpec, TypeVar, TypeVarTuple, cast, overload

from stepwell._engine.call import current_scope
from stepwell._engine.choice import RaceWork, WithinWork
from stepwell._engine.emit import emit, text_of
from stepwell._engine.invoke import invoke
from stepwell.duration import Duration
from stepwell.duration import to_us as duration_us
from stepwell.errors import InvalidInputError
from stepwell.execution import Execution
from stepwell.facts import UNSET, now_work, progress_work, sleep_arguments, until_work
from stepwell.fanouts import FanOuts
from stepwell.ids import quote_step_name
from stepwell.retry import Backoff, RetryPolicy
from stepwell.sync_step import SyncStep
from stepwell.verbs import await_work, execute_work, listen_work, start_work
from stepwell.workflow import Workflow

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")


class Step(FanOuts):
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
        undo: Callable[[T], object] | None = None,
        executor: Literal["thread", "process"] | concurrent.futures.Executor | None = None,
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
        undo: Callable[[T], object] | None = None,
        executor: Literal["thread", "process"] | concurrent.futures.Executor | None = None,
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
        undo: Callable[[T], object] | None = None,
        executor: Literal["thread", "process"] | concurrent.futures.Executor | None = None,
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
        undo: Callable[[Any], object] | None = None,
        executor: Literal["thread", "process"] | concurrent.futures.Executor | None = None,
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
        undo: Callable[[Any], object] | None = None,
        executor: Literal["thread", "process"] | concurrent.futures.Executor | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Run `fn(*args)` once and keep its result.

        The result is durable before this returns. When the execution continues after a crash, a recorded step gives its
        result, or raises its recorded error, without running again; a body that was interrupted runs again. The value is
        always the one that a replay would give: decoded from what was stored, as the type of the return annotation.

        Args:
            name: Names the step within its scope, 1 to 200 characters. The same name again gives the first result.
            fn: Async functions run in the event loop, others in a thread; see `executor`.
            args: Positional arguments of `fn`; for keyword arguments use `functools.partial` or `@step.do`.
            retries: Attempts after the first, or a whole RetryPolicy; None takes the workflow's.
            retry_delay: Wait before the second attempt.
            backoff: How the wait grows: "exponential", "linear" or "constant".
            max_delay: The longest wait.
            retry_if: Asked with the error of a failed attempt; False fails the step at once.
            timeout: Longest time for one attempt; then it is cancelled (a process of ours is killed; a thread, or what runs
                in an executor of yours, goes on unheard) and counts as failed.
            input: Recorded as the step's input instead of a preview of the arguments.
            returns: The type of the result, if `fn` has no (good) return annotation.
            undo: Called with the step's result, as the step `#undo/<path>`, when the execution fails (or is cancelled with
                `undo=True`) after the step has completed; with the step's retries, without its timeout. For a step inside
                the body of another, give a function of a module, with its parameter annotated like the result: others
                are lost when the execution leaves memory.
            executor: Where `fn` runs. "thread": plain functions in a thread of the worker's pool, also those of plain
                workflows. "process": in a process of the worker's own, which runs one body at a time and is killed by
                timeout and cancel; `fn` must be importable, it, its arguments and its result picklable, and
                `current_step()` gives facts only. A `concurrent.futures.Executor` of yours, such as a pool or Dask's
                `client.get_executor()`: the step's context does not come along, so `current_step()` raises
                NoStepContextError; a timeout or cancel only takes back what has not begun. In both of these an async
                `fn` gets an event loop of its own.

        Raises:
            Exception: Whatever the last attempt raised; StepTimeoutError for an attempt that took too long;
                StepFailedError for an error that cannot be rebuilt from its record.
            SerializationError: The result cannot be stored and restored. It is not tried again.
            ProcessDiedError: With executor="process": the last attempt's process crashed, exited or was killed.
        """
        scope = self._scope("step.run")
        if (
            retries is retry_delay is backoff is max_delay is retry_if is timeout is undo is executor is None
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
            undo=undo,
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
        undo: Callable[[Any], object] | None = None,
        executor: Literal["thread", "process"] | concurrent.futures.Executor | None = None,
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
            "undo": undo,
        }
        return _Do(self, name, options)

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
    ) -> Coroutine[Any, Any, T]: ...

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
    ) -> Coroutine[Any, Any, T]: ...

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
    ) -> Coroutine[Any, Any, Any]: ...

    def transaction(
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
        undo: Callable[[Any], object] | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Run `fn(connection, *args)` inside the transaction that records the step: exactly once altogether.

        What `fn` writes into your own tables in stepwell's database is committed together with the step's result, or
        neither is: through crashes at any instant, a lost lease, and cancelling. A recorded step gives its result without
        running again. Whatever `fn` raises rolls everything back and fails the attempt.

        On SQLite `fn` is a plain function that gets the `sqlite3.Connection` on which stepwell writes. Nobody else can
        write while it runs, so it gets 5 seconds at most and should do nothing but SQL. It must not commit, roll back
        (savepoints are fine), attach, set pragmas, create temporary tables or change stepwell's tables, nor call stepwell,
        except for the facts of `current_step()`. Foreign keys are as SQLite has them by default: not enforced.

        Args:
            name: Names the step within its scope.
            fn: Called with the connection and the arguments.
            args: Positional arguments of `fn` after the connection.
            retries: As in `run`; so are the others.
            timeout: Longest time for `fn`, at most and by default 5 seconds, counted from its beginning.
            input: Recorded as the step's input instead of a preview of the arguments.
            returns: The type of the result, if `fn` has no (good) return annotation.
            undo: As in `run`: called with the step's result alone, outside of any transaction of stepwell's.

        Raises:
            Exception: Whatever the last attempt raised; StepTimeoutError for a function that took too long.
            WorkflowCodeError: `fn` did what it must not. It is not tried again.
            SerializationError: The result cannot be stored and restored. It is not tried again.
            TypeError: `fn` is async, and the database is SQLite.
        """
        scope = self._scope("step.transaction")
        options = {
            "retries": retries,
            "retry_delay": retry_delay,
            "backoff": backoff,
            "max_delay": max_delay,
            "retry_if": retry_if,
            "timeout": timeout,
            "input": input,
            "returns": returns,
            "undo": undo,
        }
        return invoke(scope, name, self._transaction(name, fn, args, options))

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
        place, work = sleep_arguments(scope, name, duration, asyncio.current_task() is scope.task)
        await invoke(scope, cast("str", name), work, place=place)

    async def sleep_until(self, name: str, when: datetime, /) -> None:
        """Pause durably until a point in time; one in the past returns at once.

        Args:
            name: Names the pause in its scope.
            when: An aware datetime; naive ones are refused.
        """
        await invoke(self._scope("step.sleep_until"), name, until_work(when))

    @overload
    async def listen(
        self, name: str, /, *, event: str | None = None, timeout: Duration | None = None, returns: type[T]
    ) -> T: ...

    @overload
    async def listen(
        self, name: str, /, *, event: str | None = None, timeout: Duration | None = None, returns: object = None
    ) -> Any: ...

    async def listen(
        self, name: str, /, *, event: str | None = None, timeout: Duration | None = None, returns: object = None
    ) -> Any:
        """Wait for an event and give its payload; the execution is `listening` meanwhile and takes no memory.

        Events are matched by name and wait, in order, until a step listens for them; each is received once, in the
        transaction that completes the step, so a replay gives the same payload. Several steps that listen for one event are
        served in the order in which they were recorded. The deadline is stored first and never changes.

        Args:
            name: Names the step in its scope.
            event: The name of the event; the step's own by default.
            timeout: How long to wait at most; None waits for ever.
            returns: The type of the payload; JSON values and built-in types come back without.

        Raises:
            EventTimeoutError: No event came in time.
            SerializationError: The event's payload does not fit `returns`; the event is received all the same.
        """
        return await invoke(self._scope("step.listen"), name, listen_work(name, event, timeout, returns))

    @overload
    async def execute_workflow(
        self, name: str, workflow: Workflow[None, Out], input: None = None, /, *, id: str | None = None
    ) -> Out: ...

    @overload
    async def execute_workflow(
        self, name: str, workflow: Workflow[In, Out], input: In, /, *, id: str | None = None
    ) -> Out: ...

    async def execute_workflow(
        self, name: str, workflow: Workflow[Any, Any], input: Any = None, /, *, id: str | None = None
    ) -> Any:
        """Start a child exactly once, wait for its end, and give its output.

        The child and the step's row are written in one transaction; the execution is `listening` until the child has ended.
        If this execution ends as failed, cancelled or aborted meanwhile, the child is cancelled.

        Args:
            name: Names the step in its scope.
            workflow: What to start, in the same database.
            input: What it takes; checked before anything is written.
            id: Your own id for the child; by default one is derived from this execution, its run and the step's path.

        Raises:
            ChildFailedError: The child ended as failed, cancelled or aborted.
            ExecutionExistsError: The id is taken by another execution.
            InvalidInputError: The workflow does not take this input.
        """
        scope = self._scope("step.execute_workflow")
        return await invoke(scope, name, execute_work(scope, workflow, input, id))

    @overload
    async def start_workflow(
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
    async def start_workflow(
        self, name: str, workflow: Workflow[In, Out], input: In, /, *, id: str | None = None, detached: bool = False
    ) -> Execution[Out]: ...

    async def start_workflow(
        self,
        name: str,
        workflow: Workflow[Any, Any],
        input: Any = None,
        /,
        *,
        id: str | None = None,
        detached: bool = False,
    ) -> Execution[Any]:
        """Start a child exactly once without waiting for it; `wait_for_workflow` waits.

        The child and the step's row are written in one transaction.

        Args:
            name: Names the step in its scope.
            workflow: What to start, in the same database.
            input: What it takes; checked before anything is written.
            id: Your own id for the child; by default one is derived from this execution, its run and the step's path.
            detached: Let the child go on when this execution ends as failed, cancelled or aborted.

        Raises:
            ExecutionExistsError: The id is taken by another execution.
            InvalidInputError: The workflow does not take this input.
        """
        scope = self._scope("step.start_workflow")
        return await invoke(scope, name, start_work(scope, workflow, input, id, detached=detached))

    @overload
    async def wait_for_workflow(self, name: str, execution: Execution[Out], /) -> Out: ...

    @overload
    async def wait_for_workflow(self, name: str, execution: str, /) -> Any: ...

    async def wait_for_workflow(self, name: str, execution: Execution[Any] | str, /) -> Any:
        """Wait for the end of any execution and give its output, which is recorded with the step.

        Args:
            name: Names the step in its scope.
            execution: A handle, or an id (then the output comes as plain JSON values).

        Raises:
            ChildFailedError: It ended as failed, cancelled or aborted.
            ExecutionNotFoundError: There is no such execution.
            WorkflowCodeError: It is this execution itself.
        """
        scope = self._scope("step.wait_for_workflow")
        return await invoke(scope, name, await_work(scope, execution))

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
        place, work = progress_work(message, fraction)
        await invoke(self._scope("step.progress"), message, work, place=place)

    async def emit(self, stream: str, value: object, /) -> None:
        """Append a value to a durable stream of this execution, which clients follow live with `Execution.stream`.

        Cheap enough for each token of a model: it returns when the value has its place in the journal, and waits only when
        some hundred values are on their way. What was emitted before a step or the workflow ends is durable no later
        than that end, and what one body emits stays in order.

        Nothing is emitted twice. A recorded body does not run again. Workflow code is replayed, and values that are
        recorded are left out. A body that runs again, after a crash or as the next attempt, adds nothing as long as it
        emits what it emitted before; where it differs, all that it emits is appended from the beginning with `take` one
        higher, so that readers know to start over.

        Args:
            stream: Names the stream, as steps are named. Workflow code and any number of steps may write to one.
            value: JSON values and the builtin types that steps may return, up to the payload limit.

        Raises:
            InvalidInputError: The stream cannot have this name.
            SerializationError: The value cannot be stored and restored; nothing is written.
        """
        scope = self._scope("step.emit")
        await emit(scope, stream, text_of(scope.runner, stream, value))

    async def now(self, name: str, /) -> datetime:
        """The current time (UTC), recorded: a replay gives the same."""
        return await invoke(self._scope("step.now"), name, now_work())


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
