"""One execution in memory: it runs the workflow function, parks it, and records how it ends.

An *incarnation* is the stay of an execution in the memory of one worker. It runs the function from the top, with recorded
steps returning at once, until it ends, parks, is released or is lost. Exactly one `Stop` decides how it leaves; once that is
set, whatever user code returns, raises or swallows is ignored. Leaving has one order: set the stop, end the user code
(`unwinding.py`), and only then write, or go on with what is left to do of a failed run (`ending.py`). So two incarnations never
overlap.

A *strand* is a line of user code: the function, a task that it started, a body. A strand is *open* while it runs user code
and *busy* inside a step call, except that the call *rests* while it waits for a stored time, or while its body's own strands
or the lanes of its fan-out are counted instead. Nothing may be open or busy when an execution parks at once. A strand that only waits for others (the
function in `gather`) looks open, so after a grace it is taken for waiting: workflow code always, a body's first strand only
if the body has tasks.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Never, TypeVar, cast

from stepwell._engine.call import Call, Work, current
from stepwell._engine.deadlines import Deadline
from stepwell._engine.ending import Ending, last_transition
from stepwell._engine.failure import record_error
from stepwell._engine.host import Host
from stepwell._engine.outcome import Aborted, Cancelled, Completed, Failed, Lost, Park, Release, Stop
from stepwell._engine.ports import Returned
from stepwell._engine.resting import NONE, Resting
from stepwell._engine.undo import Undo, Undoable
from stepwell._engine.unwinding import Unwinding
from stepwell.errors import (
    CrashLoopError,
    ExecutionTimeoutError,
    PayloadCodecError,
    ReplayMismatchError,
    SerializationError,
)
from stepwell.retry import RetryPolicy
from stepwell.store.records import Claimed, HistoryRow
from stepwell.store.transitions import (
    Finished,
    Refused,
    Resumed,
    StepFinished,
    StepStarted,
    Transition,
    Verdict,
)

if TYPE_CHECKING:
    from stepwell._engine.definition import Definition

E = TypeVar("E", bound=Exception)

log: Final = logging.getLogger("stepwell")

CRASH_LIMIT: Final = 5
"""Crashes in a row without a recorded step after which an execution fails instead of running again."""
SUSPECT_CRASHES: Final = 2
"""Crashes in a row from which on a worker runs at most one such execution at a time."""
MISMATCH_PAUSE_US: Final = 30_000_000
"""How long an execution that does not fit the code stays in the queue before a worker looks at it again."""


class Runner(Resting):
    """One incarnation of an execution."""

    __slots__ = (
        "_deadline",
        "_gone",
        "_main",
        "_root",
        "_unwinding",
        "definition",
        "history",
        "holding",
        "hurry",
        "policy",
        "run",
        "signal",
        "step",
        "tasks",
        "undos",
    )

    def __init__(self, host: Host, definition: Definition, claimed: Claimed, policy: RetryPolicy) -> None:
        super().__init__(host, claimed)
        self.definition = definition
        self.run = claimed.run
        self.policy = policy
        self.history: dict[str, HistoryRow] = {row.path: row for row in claimed.history}
        self.signal = claimed.signal
        self.holding = claimed.paused
        self.hurry = False
        self.step: object = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.undos: dict[str, Undoable] | None = None
        """The completed steps of this incarnation that have an undo, by path; None while there is none."""
        self.root = Call(self, None, "", "", 0, None)
        self._main: asyncio.Task[None] | None = None
        self._unwinding: Unwinding | None = None
        self._deadline: Deadline | None = None
        self._gone = False

    # ---------------------------------------------------------------------------------------------- start and end

    @property
    def root(self) -> Call:
        """The scope of the function, or of what cleans up after it."""
        return self._root or Call(self, None, "", "", 0, None, closed=True)

    @root.setter
    def root(self, root: Call) -> None:
        self._root: Call | None = root

    def start(self) -> None:
        """Begin: run the function, or what is left to do of a run that was failing."""
        claimed = self.claimed
        if claimed.crashes >= CRASH_LIMIT:
            self.close(Failed(record_error(CrashLoopError(self.id, claimed.crashes))))
        elif claimed.ending == "cancelled":
            self._end(Cancelled(claimed.reason), is_recorded=True)
        elif claimed.failing is not None:
            self._end(Failed(claimed.failing), is_recorded=True)
        elif claimed.deadline_at is not None and claimed.deadline_at <= self.clock.now():
            self._time_out()
        else:
            if claimed.deadline_at is not None:
                self._deadline = self.host.deadlines.at(claimed.deadline_at, self._time_out)
            self._run_main(self.call_function)

    def request_stop(self, stop: Stop) -> None:
        """Decide how this incarnation leaves. The first decision stands, except that a lost execution stays lost."""
        if self._closing or (self.stop is not None and not isinstance(stop, Lost)):
            return
        self.stop = stop
        self._leaving().begin()

    def end(self, stop: Failed | Aborted) -> None:
        """The code ends its execution. While undos are looked for it has done so before, and other strands must go on."""
        if self.rebuilding is None:
            self.request_stop(stop)

    def has_left(self) -> bool:
        """Whether this incarnation has left memory, or is about to, without having come to an end."""
        return isinstance(self.stop, Park | Release | Lost)

    def is_suspect(self) -> bool:
        """Whether its process has died more than once in a row while this execution ran, and nothing was recorded since."""
        return self._crashed and self.claimed.crashes >= SUSPECT_CRASHES

    def drain(self) -> None:
        """Start no further body and give the execution back as soon as no body runs."""
        self.draining = self.holding = True
        self.check_park()

    def suspend(self) -> None:
        """Somebody has paused or woken it, or lets it go on: begin nothing until `look` tells which."""
        self.signalled = self.holding = True

    def look(self, now: Claimed) -> None:
        """Compare with the database: it may be paused, or go on, or some of its waits may have been ended."""
        if self.stop is not None or self._closing:
            # What it leaves behind says what it had seen; whoever finds more in the database lets it be claimed again.
            self.signalled = True
            return
        self.signal = now.signal
        self.signalled = False
        self.paused = now.paused
        self.holding = self.draining or self.paused
        for row in now.history:
            if row.wake_at is not None and row.status in ("sleeping", "retrying"):
                self.end_earlier(row.path, row.wake_at)
        if self.holding:
            self.check_park()
        self.let_go()

    def _run_main(self, call: Callable[[], Awaitable[object]]) -> None:
        context = self.host.base_context.copy()
        context.run(current.set, self.root)
        self.open_code += 1
        # Made directly, not by loop.create_task: the task factory counts what user code starts, and this is counted here.
        self._main = asyncio.Task(self._follow(call), loop=self.loop, name=f"stepwell-{self.id}", context=context)
        self.root.task = cast("asyncio.Task[object]", self._main)

    async def _follow(self, call: Callable[[], Awaitable[object]]) -> None:
        root = self.root
        stop: Stop
        try:
            value = await call()
            if self._is_over(root):
                return
            stop = Completed(self._encode_output(value))
        except BaseException as error:
            if self._is_over(root):
                return
            if self.ending is not None:
                self.ending.raised(error)
            else:
                log.info("Execution %s of %s failed: %r", self.id, self.definition.name, error)
            stop = Failed(record_error(error))
        finally:
            if not root.closed:
                self.open_code -= 1
        self._settle(stop)

    def _is_over(self, root: Call) -> bool:
        """Whether what ran in this scope was ended; one that was abandoned may come to its end much later."""
        return self.stop is not None or self.root is not root

    def call_function(self) -> Awaitable[object]:
        """Call the workflow function."""
        definition = self.definition
        try:
            arguments = definition.arguments(self.step, self.claimed.input, self.host.resources)
        except PayloadCodecError as error:
            raise self.give_back(error) from error
        if definition.is_async:
            return definition.function(*arguments.args, **arguments.kwargs)
        return self.in_thread(lambda: definition.function(*arguments.args, **arguments.kwargs))

    async def call_on_error(self, error: str) -> object:
        """Call `on_error`."""
        definition = self.definition
        try:
            arguments = definition.error_arguments(
                self.step, self.claimed.input, self.host.errors.restore(error), self.host.resources
            )
        except PayloadCodecError as problem:
            raise self.give_back(problem) from problem
        handler = cast("Callable[..., object]", definition.on_error)
        if inspect.iscoroutinefunction(handler):
            return await handler(*arguments.args, **arguments.kwargs)
        return await self.in_thread(lambda: handler(*arguments.args, **arguments.kwargs))

    async def in_thread(self, fn: Callable[[], object]) -> object:
        """Run a blocking line of user code in a thread of its own."""
        thread = self.host.executor.spawn(contextvars.copy_context(), fn)
        threads = self.threads = set(self.threads)
        threads.add(thread)
        thread.add_done_callback(self._thread_ended)
        # A thread cannot be cancelled: whoever waits for it may be, and unwinding then waits for the thread itself.
        value, error = await asyncio.shield(thread)
        if error is not None:
            raise error
        return await value if inspect.isawaitable(value) else value

    def _thread_ended(self, thread: asyncio.Future[Returned]) -> None:
        self.threads = {other for other in self.threads if other is not thread}

    def _encode_output(self, value: object) -> str:
        if self.ending is not None:
            return "null"
        try:
            text = self.definition.output_codec.snapshot(value)[0]
        except PayloadCodecError as error:
            raise self.give_back(error) from error
        self.check_size(text, "The output")
        return text

    def check_size(self, text: str, what: str) -> None:
        """Refuse a text that is longer than the payload limit."""
        size, limit = len(text.encode()), self.host.payload_limit
        if size > limit:
            raise SerializationError(
                f"{what} of execution {self.id!r} takes {size:,} bytes as JSON; at most {limit:,} are allowed. Store large data elsewhere and keep a reference, or raise App(payload_limit=…)."
            )

    def _settle(self, stop: Stop) -> None:
        """The function has ended by itself."""
        if self.rebuilding is not None:
            self.rebuilding.function_ended()
        elif any(not task.done() for task in self.tasks) or self.waits or self.root.open_children():
            self.request_stop(stop)
        else:
            self._leave(stop)

    def user_code_ended(self) -> None:
        """Nothing of user code runs any more: do what was decided."""
        self._leave(cast("Stop", self.stop))

    def _leave(self, stop: Stop) -> None:
        if isinstance(stop, Park | Release | Lost):
            self.close(stop)
        elif self.ending is not None:
            self.stop = None
            self.ending.phase_over(stop)
        elif isinstance(stop, Failed):
            self._end(stop, is_recorded=False)
        else:
            self.close(stop)

    def _end(self, end: Failed | Cancelled, *, is_recorded: bool) -> None:
        """Do what is left to do of a run whose end is decided. Its deadline does not matter any more."""
        if self._deadline is not None:
            self._deadline.cancel()
        self.stop = None
        self.ending = Ending(self, end, is_recorded=is_recorded)
        self.ending.go_on()

    def run_phase(self, root: Call, run: Callable[[], Awaitable[object]]) -> None:
        """Run more of the user's code, in a scope of its own; what ran before has ended, or is abandoned for good."""
        self.root.closed = True
        self.root.take_apart()
        self.root = root
        self.stop = None
        self._unwinding = None
        self.tasks = set()
        self.threads = NONE
        self.open_code = self.open_bodies = self.busy = 0
        self._run_main(run)

    def take_undo(self, record: HistoryRow, work: Work) -> None:
        """A completed step is met again: if an undo was recorded with it, remember the function."""
        undo: Undo | None = getattr(work, "undo", None)
        if undo is not None and record.undo:
            self.keep_undo(Undoable(record.path, record.seq, record.output or "null", undo))

    def keep_undo(self, step: Undoable) -> None:
        """Remember how to undo a completed step."""
        if self.undos is None:
            self.undos = {}
        self.undos[step.path] = step
        if self.rebuilding is not None:
            self.rebuilding.found(step.path)

    def close(self, stop: Stop) -> None:
        """Leave, writing what was decided."""
        self.rebuilding = None
        self._closing = True
        self.stop = stop
        self.root.closed = True
        if self._deadline is not None:
            self._deadline.cancel()
        if self._grace is not None:
            self._grace.cancel()
        if self._lively is not None:
            self._lively.cancel()
        transition = last_transition(self, stop)
        if transition is None:
            self._depart(stop)
        else:
            self.note(transition)

    def _time_out(self) -> None:
        claimed = self.claimed
        seconds = ((claimed.deadline_at or 0) - claimed.started_at) / 1_000_000
        failed = Failed(record_error(ExecutionTimeoutError(self.id, seconds)))
        if self._main is None:
            self._leave(failed)
        else:
            self.request_stop(failed)

    # ---------------------------------------------------------------------------------------------- unwinding

    def pending_tasks(self) -> set[asyncio.Task[Any]]:
        """The function and the tasks that it started, as far as they have not ended."""
        tasks = {task for task in self.tasks if not task.done()}
        if self._main is not None and not self._main.done():
            tasks.add(self._main)
        return tasks

    def _leaving(self) -> Unwinding:
        if self._unwinding is None:
            self._unwinding = Unwinding(self)
        return self._unwinding

    async def unwound(self) -> Never:
        """Raise what a step call raises while the execution leaves memory; never returns."""
        await self._leaving().unwound()

    def unwound_in_thread(self) -> Never:
        """The same for a call from a thread."""
        self._leaving().unwound_in_thread()

    def mismatch(self, path: str, problem: str) -> ReplayMismatchError:
        """The code does not fit the record: give the execution back for a worker whose code does."""
        error = ReplayMismatchError(self.id, path, problem)
        # What is left to do of a run that ends does not wait for other code; undos that stay unknown are recorded as failed.
        return error if self.rebuilding is not None else self.give_back(error)

    def give_back(self, error: E) -> E:
        """This worker cannot go on with the execution, another may: release it, and say why."""
        self.request_stop(self._given_back(error))
        return error

    def _given_back(self, error: Exception) -> Release:
        log.error("Execution %s goes back to the queue: %s", self.id, error)
        return Release(self.clock.now() + MISMATCH_PAUSE_US, str(error))

    # ---------------------------------------------------------------------------------------------- answers

    def lose(self) -> None:
        """The database has refused a write: the execution is another worker's by now, or over."""
        log.warning("Execution %s belongs to another worker or is over; this worker stops it", self.id)
        self.request_stop(Lost())

    def settled(self, transition: Transition, verdict: Verdict) -> None:
        """The journal's answer to each transition of this runner."""
        self.writes -= 1
        if verdict is not None and isinstance(verdict, Refused | Exception):
            self._not_written(transition, verdict)
        elif self.writes:
            return
        elif self._closing:
            self._depart(cast("Stop", self.stop))
        elif self.waits or self.holding:
            self.check_park()

    def _not_written(self, transition: Transition, verdict: Verdict) -> None:
        if isinstance(verdict, Refused):
            self.lose()
            if self._closing:
                self._depart(Lost())
        elif isinstance(transition, StepFinished) and self.undos is not None:
            self.undos.pop(transition.path, None)
        elif isinstance(transition, Finished) and transition.status == "completed":
            log.error("The output of execution %s cannot be stored: %s", self.id, verdict)
            self.close(Failed(record_error(SerializationError(f"The output cannot be stored: {verdict}"))))
        elif self._closing and isinstance(verdict, PayloadCodecError) and not isinstance(self.stop, Release):
            self.close(self._given_back(verdict))
        elif self._closing:
            log.error("The end of execution %s cannot be stored: %s", self.id, verdict)
            self._depart(Lost())

    def _depart(self, stop: Stop) -> None:
        if not self._gone:
            self._gone = True
            if self.emitter is not None:
                self.emitter.close()
                self.emitter = None
            # A scope holds its runner and its task, which holds the scope, and the garbage collector looks into no scope.
            self.root.take_apart()
            self._root = self._main = self._unwinding = self._grace = self._lively = self._deadline = self.step = None
            self.undos = None
            self.ending = None
            self.host.left(self, stop)

    # ---------------------------------------------------------------------------------------------- bodies and waits

    def announce(self, call: Call) -> None:
        """Show a body as running: it takes long, or has steps of its own."""
        if call.announced or self.stop is not None or call.work is None:
            return
        call.announced = True
        self.note(
            StepStarted(
                self.id,
                self.epoch,
                self.run,
                call.path,
                call.seq,
                call.work.kind,
                call.attempt,
                call.input,
                call.started_at,
            )
        )

    async def make_sure(self) -> None:
        """Find out, by a write, whether the execution is still ours, when the worker may have slept through its lease."""
        await self.record(Resumed(self.id, self.epoch))

    # ---------------------------------------------------------------------------------------------- strands

    def leave_call(self, scope: Call, call: Call) -> None:
        """The strand is in user code again."""
        if scope.is_body:
            scope.open_strands += 1
            self.open_bodies += 1
        else:
            self.open_code += 1
        call.callers -= 1
        if not call.resting:
            self.busy -= 1
        if self.waits or self.holding:
            self.check_park()

    def adopt(self, task: asyncio.Task[Any], scope: Call) -> None:
        """Count a task that user code has started. Tasks of workflow code end with the execution at the latest."""
        if scope.is_body:
            scope.tasks += 1
            scope.open_strands += 1
            self.open_bodies += 1
        else:
            self.tasks.add(task)
            self.open_code += 1
        task.add_done_callback(partial(self._strand_ended, scope, scope.attempt))

    def _strand_ended(self, scope: Call, attempt: int, task: asyncio.Task[Any]) -> None:
        if not scope.is_body:
            self.tasks.discard(task)
            if not scope.closed:
                self.open_code -= 1
        elif not scope.closed and scope.attempt == attempt:
            scope.tasks -= 1
            scope.open_strands -= 1
            self.open_bodies -= 1
        if self.waits or self.holding:
            self.check_park()

    def spawn(self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context) -> asyncio.Task[Any]:
        """Run work of the engine for this execution; it is cancelled when the execution leaves memory."""
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=self.loop, context=context)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task
