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
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Never, TypeVar, cast

from stepwell._engine.call import Call, Work, current
from stepwell._engine.deadlines import Deadline
from stepwell._engine.emit import Emitter
from stepwell._engine.ending import Ending, last_transition
from stepwell._engine.failure import record_error
from stepwell._engine.host import Host
from stepwell._engine.listening import Inbox
from stepwell._engine.outcome import Aborted, Cancelled, Completed, Failed, Lost, Outcome, Park, Release, Stop
from stepwell._engine.ports import Returned
from stepwell._engine.rebuild import Rebuild
from stepwell._engine.strands import Strands
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
    Idle,
    OwnerTransition,
    Progressed,
    Refused,
    Resumed,
    StepFinished,
    StepRetrying,
    StepStarted,
    StepWaiting,
    Transition,
    Verdict,
)

if TYPE_CHECKING:
    from stepwell._engine.definition import Definition

E = TypeVar("E", bound=Exception)

log: Final = logging.getLogger("stepwell")

STAYS_IN_MEMORY_US: Final = 5_000_000
"""Waits up to this long do not park."""
STAYS_AFTER_ARRIVAL_SECONDS: Final = 2.0
"""How long an execution that listens stays in memory after something has arrived, for more may follow at once."""
PARK_GRACE_SECONDS = 1.0
"""How long open workflow code beside a long wait may take to reach its next step before the execution parks."""
BODY_GRACES: Final = 10
"""How many times longer a body gets that seems to wait only for tasks of its own."""
CRASH_LIMIT: Final = 5
"""Crashes in a row without a recorded step after which an execution fails instead of running again."""
SUSPECT_CRASHES: Final = 2
"""Crashes in a row from which on a worker runs at most one such execution at a time."""
MISMATCH_PAUSE_US: Final = 30_000_000
"""How long an execution that does not fit the code stays in the queue before a worker looks at it again."""

_PROGRESS: Final = (StepFinished, StepWaiting, StepRetrying)


class Wait(NamedTuple):
    """Something that waits for a stored time, or for what comes from outside.

    A deadline around other code is not `durable`: it is no reason to park.
    """

    when: int | None
    path: str
    durable: bool
    listening: bool
    deadline: Deadline | None


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Runner(Strands):
    """One incarnation of an execution."""

    __slots__ = (
        "_check_due",
        "_closing",
        "_crashed",
        "_deadline",
        "_gone",
        "_grace",
        "_held",
        "_inbox",
        "_lively",
        "_main",
        "_root",
        "_shown_sleeping",
        "_unwinding",
        "claimed",
        "clock",
        "definition",
        "draining",
        "emitter",
        "ending",
        "epoch",
        "history",
        "holding",
        "host",
        "hurry",
        "id",
        "loop",
        "paused",
        "policy",
        "rebuilding",
        "run",
        "seq",
        "signal",
        "signalled",
        "step",
        "stop",
        "tasks",
        "threads",
        "undos",
        "waits",
        "writes",
    )

    def __init__(self, host: Host, definition: Definition, claimed: Claimed, policy: RetryPolicy) -> None:
        self.host = host
        self.definition = definition
        self.claimed = claimed
        self.id = claimed.id
        self.epoch = claimed.epoch
        self.run = claimed.run
        self.policy = policy
        self.clock = host.clock
        self.history: dict[str, HistoryRow] = {row.path: row for row in claimed.history}
        self.seq = max((row.seq for row in claimed.history), default=0)
        self.step: object = None
        self.stop: Stop | None = None
        self.root = Call(self, None, "", "", 0, None)
        self.writes = 0
        self.emitter: Emitter | None = None
        super().__init__()
        self.waits: dict[asyncio.Future[None], Wait] = {}
        self.threads: set[asyncio.Future[Returned]] | frozenset[Never] = _NONE
        self.tasks: set[asyncio.Task[Any]] = set()
        self._main: asyncio.Task[None] | None = None
        self._unwinding: Unwinding | None = None
        self.loop = asyncio.get_running_loop()
        self._shown_sleeping = False
        self._crashed = claimed.crashes > 0
        self._closing = False
        self._gone = False
        self._check_due = False
        self._grace: asyncio.TimerHandle | None = None
        self._deadline = None
        self._inbox: Inbox | None = None
        self._lively: asyncio.TimerHandle | None = None
        self._held: set[asyncio.Future[None]] | frozenset[Never] = _NONE
        self.signal = claimed.signal
        self.signalled = False
        self.paused = self.holding = claimed.paused
        self.ending: Ending | None = None
        self.rebuilding: Rebuild | None = None
        self.undos: dict[str, Undoable] | None = None
        """The completed steps of this incarnation that have an undo, by path; None while there is none."""
        self.draining = False
        self.hurry = False

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
                self._end_earlier(row.path, row.wake_at)
        if self.holding:
            self.check_park()
        for future in self._held:
            _set(future)

    def _end_earlier(self, path: str, when: int) -> None:
        """A wait was ended before its time."""
        for future, wait in self.waits.items():
            if wait.durable and not wait.listening and wait.path == path and wait.when is not None and when < wait.when:
                _set(future)

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
        self.threads = _NONE
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

    # ---------------------------------------------------------------------------------------------- recording

    async def record(self, transition: OwnerTransition) -> None:
        """Write a transition and return once it is durable.

        Raises:
            Exception: The transition cannot be stored.
            Unwound: The execution is leaving memory, or belongs to another worker.
        """
        if self.stop is not None:
            await self.unwound()
        verdict = await self.send(transition)
        if isinstance(verdict, Exception):
            raise self._refusal(verdict)
        if verdict is not None or self.stop is not None:
            await self.unwound()

    async def answer(
        self, transition: OwnerTransition, call: Call, outcome_of: Callable[[Verdict], Outcome | None]
    ) -> Verdict:
        """Write a transition that is answered, and give the answer.

        A caller that is cancelled meanwhile waits for the answer all the same: if that is an outcome, the call has it.

        Raises:
            Exception: The transition cannot be stored.
            Unwound: The execution is leaving memory, or belongs to another worker.
        """
        if self.stop is not None:
            await self.unwound()
        future = self.send(transition)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError as error:
                if self.stop is not None:
                    raise
                cancelled = error
        verdict = future.result()
        if cancelled is not None:
            outcome = outcome_of(verdict)
            if outcome is not None:
                call.settle_later(outcome)
            raise cancelled
        if isinstance(verdict, Exception):
            raise self._refusal(verdict)
        if isinstance(verdict, Refused) or self.stop is not None:
            await self.unwound()
        return verdict

    def _refusal(self, problem: Exception) -> Exception:
        """What a call raises whose record was not taken. It must not look like an outcome when the codec is to blame."""
        return self.give_back(problem) if isinstance(problem, PayloadCodecError) else problem

    def send(self, transition: OwnerTransition) -> asyncio.Future[Verdict]:
        """Write a transition of an execution that is not leaving; the future gives the verdict."""
        if self._crashed:
            self._note_progress(transition)
        if self.emitter is not None:
            self.emitter.flush()
        self.writes += 1
        return self.host.journal.append(transition, self)

    def note(self, transition: OwnerTransition) -> None:
        """Write a transition that nobody awaits; it stands before whatever is recorded later.

        Once it is decided how the execution leaves, only that decision is still written.
        """
        if (self.stop is not None and not self._closing) or self.rebuilding is not None:
            return
        if self._crashed:
            self._note_progress(transition)
        if self.emitter is not None:
            self.emitter.flush()
        self.writes += 1
        self.host.journal.note(transition, self)

    def _note_progress(self, transition: OwnerTransition) -> None:
        """After a crash, the first thing that is recorded sets the count of crashes to zero."""
        if isinstance(transition, _PROGRESS):
            self.progressed()

    def progressed(self) -> None:
        """Something was recorded: crashes in a row are counted anew."""
        if self._crashed:
            self._crashed = False
            self.note(Progressed(self.id, self.epoch))
            self.host.look()

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

    async def wait_until(self, when: int, call: Call) -> None:
        """Wait for a stored time, in memory or out of it."""
        future = self._wait(when, call.path, durable=True)
        self.rest(call)
        self.check_park()
        try:
            await future
        finally:
            self.wake(call)
            self._end_wait(future)
        if self.stop is not None:
            await self.unwound()
        self.resumed()

    @property
    def inbox(self) -> Inbox:
        """The steps that listen for events."""
        if self._inbox is None:
            self._inbox = Inbox(self)
        return self._inbox

    def start_listening(self, when: int | None, path: str) -> asyncio.Future[None]:
        """A future for something that comes from outside, done at a stored time at the latest."""
        return self._wait(when, path, durable=True, listening=True)

    async def listen_on(self, call: Call, future: asyncio.Future[None]) -> None:
        """Wait for it, in memory or out of it."""
        self.rest(call)
        self.check_park()
        try:
            await future
        finally:
            self.wake(call)
            self._end_wait(future)
        if self.stop is not None:
            await self.unwound()
        self.stay_for_more()

    def stay_for_more(self) -> None:
        """Something has arrived: stay in memory for a while, so that what follows need not replay everything."""
        if self._lively is not None:
            self._lively.cancel()
        self._lively = self._later(STAYS_AFTER_ARRIVAL_SECONDS, self._calm)

    def _later(self, seconds: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        # Without the caller's context: asyncio keeps cancelled timers, and with them the scope, until their time.
        return self.loop.call_later(seconds, callback, context=self.host.base_context)

    def _calm(self) -> None:
        self._lively = None
        self.check_park()

    async def make_sure(self) -> None:
        """Find out, by a write, whether the execution is still ours, when the worker may have slept through its lease."""
        await self.record(Resumed(self.id, self.epoch))

    async def hold(self, call: Call) -> None:
        """Begin nothing while the execution is paused or the worker drains; it leaves as soon as no body runs.

        A step inside a body may begin while the worker drains, for the body has to end; not while it is paused. Of a fan-out
        the next item waits, even if the body around it does not: it may have thousands of them.
        """
        inside = call.parent is not None and call.parent.is_body and call.index is None
        while self.paused or self.signalled or (self.draining and not inside):
            future: asyncio.Future[None] = self.loop.create_future()
            self._held = {*self._held, future}
            self.rest(call)
            self.check_park()
            try:
                await future
            finally:
                self._held = {other for other in self._held if other is not future}
                self.wake(call)
        if self.stop is not None:
            await self.unwound()

    async def wait_for_first(self, call: Call, futures: Iterable[asyncio.Future[Any]]) -> None:
        """Let a call rest until one of these is done."""
        waiting = list(futures)
        self.rest(call)

        def wake(_: object) -> None:
            # At once, not when the waiting task gets its turn: in between the execution would seem to wait.
            self.wake(call)

        for future in waiting:
            future.add_done_callback(wake)
        self.check_park()
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.remove_done_callback(wake)
            self.wake(call)

    def watch_deadline(self, when: int, path: str) -> asyncio.Future[None]:
        """A future that is done at a stored time. It ends parking in time, but is no reason to park by itself."""
        return self._wait(when, path, durable=False)

    def end_deadline(self, future: asyncio.Future[None]) -> None:
        """The deadline does not matter any more."""
        self._end_wait(future)

    def _wait(self, when: int | None, path: str, *, durable: bool, listening: bool = False) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self.loop.create_future()
        deadline = None if when is None else self.host.deadlines.at(when, partial(_set, future))
        self.waits[future] = Wait(when, path, durable, listening, deadline)
        return future

    def _end_wait(self, future: asyncio.Future[None]) -> None:
        deadline = self.waits.pop(future).deadline
        if deadline is not None:
            deadline.cancel()
        if future.done():
            if not future.cancelled():
                future.exception()
        else:
            future.cancel()

    def is_idle(self) -> bool:
        """Whether nothing of this execution runs at the moment, so that a wait is all there is to show."""
        idle = self.open_bodies <= 0 and self.busy <= 1 and self.writes == 0
        self._shown_sleeping = self._shown_sleeping or idle
        return idle

    def idle_again(self, wake_at: int | None, path: str, status: str = "sleeping") -> None:
        """A recorded wait is taken up in memory. Whoever dies now did not die of this execution."""
        if self.is_idle():
            self.note(Idle(self.id, self.epoch, status, wake_at, path))

    def is_waiting(self) -> bool:
        """Whether the execution only waits for stored times, with nothing running and nothing to write."""
        return (
            self.stop is None
            and not self._closing
            and not self.signalled
            and not self.writes
            and self.busy <= 0
            and not (
                self.open_bodies > 0 and any(call.is_at_work() for call in self.host.bodies if call.runner is self)
            )
            and bool(self.waits)
            and not any(future.done() for future in self.waits)
        )

    def resumed(self) -> None:
        """A wait that was kept in memory is over."""
        if self._shown_sleeping:
            self._shown_sleeping = False
            self.note(Resumed(self.id, self.epoch))

    def check_park(self) -> None:
        """Look, at the end of this turn of the loop, whether the execution should leave memory."""
        if not self._check_due:
            self._check_due = True
            self.loop.call_soon(self._check_park)

    def _check_park(self) -> None:
        self._check_due = False
        if (self.draining or self.paused) and self._is_at_rest():
            if self.threads and self.open_code > 0 and not self.draining:
                self._give_grace()
            else:
                self.request_stop(Release(self.claimed.created_at))
            return
        park = self._wanted_park()
        if park is None:
            return
        if self.open_code <= 0 and self.open_bodies <= 0:
            self.request_stop(park)
        elif self._grace is None:
            graces = 1 if self.open_bodies <= 0 else BODY_GRACES
            self._grace = self._later(PARK_GRACE_SECONDS * graces, partial(self._grace_over, self.seq))

    def _give_grace(self) -> None:
        """A thread may be about to return: a paused function that only has to do that completes."""
        if self._grace is None:
            self._grace = self.loop.call_later(PARK_GRACE_SECONDS, self._pause_grace_over)

    def _pause_grace_over(self) -> None:
        self._grace = None
        if self.paused and self._is_at_rest():
            self.request_stop(Release(self.claimed.created_at))

    def _is_at_rest(self) -> bool:
        """Whether no body runs and nothing is being written."""
        return self.stop is None and not self._closing and not self.writes and self.busy <= 0 and self.open_bodies <= 0

    def _wanted_park(self) -> Park | None:
        """How to park, if everything waits or might only seem not to."""
        if self.stop is not None or self._closing or self.writes or self.busy > 0:
            return None
        if self.open_bodies > 0 and any(call.is_at_work() for call in self.host.bodies if call.runner is self):
            return None
        if any(future.done() for future in self.waits) or not any(wait.durable for wait in self.waits.values()):
            return None
        waits = self.waits.values()
        listening = any(wait.listening for wait in waits)
        if listening and self._lively is not None and self.host.has_room():
            return None
        when = min((wait.when for wait in waits if wait.when is not None), default=None)
        if when is not None and when - self.clock.now() <= STAYS_IN_MEMORY_US:
            return None
        path = next(wait.path for wait in waits if wait.when == when)
        deadline = self.claimed.deadline_at
        if deadline is not None and (when is None or deadline < when) and self.ending is None:
            when = deadline
        return Park(when, path, "listening" if listening else "sleeping")

    def _grace_over(self, seq: int) -> None:
        self._grace = None
        park = self._wanted_park()
        if park is None:
            return
        if seq != self.seq:
            self.check_park()
        else:
            self.request_stop(park)

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


_NONE: Final[frozenset[Never]] = frozenset()
"""Most executions never have what would stand in this set, so they share it."""
