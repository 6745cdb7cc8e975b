"""Processes of our own for step bodies: one body at a time in each, reused, killed when nobody waits for the body any more.

Each process is looked after by a thread, its *keeper*, which starts it when there is something to do, waits for the answer
and buries it; so the event loop never blocks. A process leads a session of its own: Ctrl-C in the terminal does not reach it
(the worker drains, and decides), and killing its group takes along what the body has started. `child.py` is the other end.

Bodies and results travel by pickle. Both ends are processes of one program, of which one started the other over a private
socket; nothing that was stored is ever unpickled.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, assert_never

from stepwell._engine.errand import Errand
from stepwell._engine.failure import ErrorRegistry, show_origin
from stepwell._engine.offspring import EXIT_SECONDS, Process
from stepwell._engine.ports import FarFacts, Returned
from stepwell.errors import ProcessDiedError, SerializationError, WorkflowCodeError

if TYPE_CHECKING:
    from stepwell._engine.child import Answer

IDLE_SECONDS = 60.0
"""A process that has had nothing to do for so long is ended."""


class ProcessPool:
    """As many processes as there are bodies to run, up to a limit."""

    def __init__(self, limit: int | None, errors: ErrorRegistry) -> None:
        self._limit = limit or _processors()
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Job] = deque()
        self._keepers: set[_Keeper] = set()
        self._idle: list[_Keeper] = []
        self._leaving: set[_Keeper] = set()
        self._closed = False
        self.errors = errors
        self.lock = threading.Lock()

    def submit(self, errand: Errand, facts: FarFacts, on_start: Callable[[], object]) -> asyncio.Future[Returned]:
        job = _Job(errand, facts, on_start, self._loop.create_future())
        job.future.add_done_callback(partial(self._done, job))
        with self.lock:
            if self._closed:
                job.future.cancel()
            elif self._idle:
                # The one that was busy last, so that the others get to their end.
                self._idle.pop().give(job)
            elif len(self._keepers) < self._limit:
                keeper = _Keeper(self, job)
                keeper.thread.start()
                self._keepers.add(keeper)
            else:
                self._waiting.append(job)
        return job.future

    async def close(self) -> None:
        with self.lock:
            self._closed = True
            self._waiting.clear()
            for keeper in self._idle:
                keeper.give(None)
            self._idle.clear()
            threads = [keeper.thread for keeper in self._keepers | self._leaving]
            for keeper in self._keepers:
                keeper.kill_busy()
        if threads:
            await asyncio.to_thread(_join, threads)

    # ---------------------------------------------------------------------------------------------- for keepers

    def free(self, keeper: _Keeper) -> None:
        """The keeper has nothing to do: it gets the next body now, or later."""
        with self.lock:
            if self._waiting or self._closed:
                keeper.give(self._waiting.popleft() if self._waiting else None)
            else:
                self._idle.append(keeper)

    def next_job(self, keeper: _Keeper) -> _Job | None:
        """Wait for work (called in the keeper's thread); None when there has been none for long."""
        try:
            return keeper.orders.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            with self.lock:
                if keeper in self._idle:
                    self._idle.remove(keeper)
                    self._keepers.discard(keeper)
                    self._leaving.add(keeper)
                    return None
            return keeper.orders.get()

    def left(self, keeper: _Keeper) -> None:
        """The keeper and its process are no more."""
        with self.lock:
            self._keepers.discard(keeper)
            self._leaving.discard(keeper)

    def tell(self, callback: Callable[..., object], *args: object) -> None:
        """Call this in the event loop."""
        with suppress(RuntimeError):
            # The loop is closed when nobody waits any more.
            self._loop.call_soon_threadsafe(callback, *args)

    def _done(self, job: _Job, future: asyncio.Future[Returned]) -> None:
        if not future.cancelled():
            return
        with self.lock:
            job.dropped = True
            if job.keeper is not None:
                job.keeper.kill()
            elif job in self._waiting:
                self._waiting.remove(job)


class _Job:
    """A body on its way; `keeper` and `dropped` are guarded by the pool's lock."""

    __slots__ = ("dropped", "errand", "facts", "future", "keeper", "on_start")

    def __init__(
        self, errand: Errand, facts: FarFacts, on_start: Callable[[], object], future: asyncio.Future[Returned]
    ) -> None:
        self.errand = errand
        self.facts = facts
        self.on_start = on_start
        self.future = future
        self.keeper: _Keeper | None = None
        self.dropped = False


class _Keeper:
    """A thread with at most one process."""

    def __init__(self, pool: ProcessPool, first: _Job) -> None:
        self._pool = pool
        self._process: Process | None = None
        self._job: _Job | None = None
        self.orders: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, args=(first,), name="stepwell-process", daemon=True)

    def give(self, job: _Job | None) -> None:
        """Carry out this body; None: end."""
        self.orders.put(job)

    def kill(self) -> None:
        """Kill the process, if there is one (under the pool's lock)."""
        if self._process is not None:
            self._process.kill()

    def kill_busy(self) -> None:
        """The same, unless it waits for work (under the pool's lock)."""
        if self._job is not None:
            self._job.dropped = True
            self.kill()

    def _run(self, job: _Job | None) -> None:
        try:
            while job is not None:
                returned = self._carry_out(job)
                # Before the answer is out, so that the body which follows from it finds this process free.
                self._pool.free(self)
                if returned is not None:
                    self._pool.tell(_answer, job.future, returned)
                # Nothing of it is kept while there is nothing to do.
                del job, returned
                job = self._pool.next_job(self)
        finally:
            self._bury()
            self._pool.left(self)

    def _carry_out(self, job: _Job) -> Returned | None:
        """Run a body and give what it gave; None when nobody wants to know any more."""
        path = job.facts.path
        try:
            message = pickle.dumps(job.errand)
        except Exception as error:  # whatever the arguments' own methods raise
            problem = f"The function or the arguments of step {path!r} cannot be sent to another process: {_said(error)}. With executor='process' they must be picklable."
            return Returned(None, SerializationError(problem))
        try:
            answer = self._ask(job, message)
            if isinstance(answer, int):
                return None if job.dropped else Returned(None, ProcessDiedError(path, answer))
            return None if answer is None else _returned(path, answer, self._pool.errors)
        except BaseException as error:  # the system has no process, memory or descriptors to give
            self._bury()
            return Returned(None, error)
        finally:
            with self._pool.lock:
                self._job = job.keeper = None
            if self._process is not None and self._process.is_killed:
                # The answer came first, but the next body must not meet a process that is about to go.
                self._bury()

    def _ask(self, job: _Job, message: bytes) -> Answer | int | None:
        """The answer, the exit code of a process that died, or None for a body that was not started."""
        if not self._take(job):
            return None
        process = self._process or self._start()
        self._pool.tell(job.on_start)
        try:
            process.send(job.facts, message)
        except OSError:
            # It died before it had the whole message, while idle most likely: the body has not begun.
            self._bury()
            if not self._take(job):
                return None
            process = self._start()
            process.send(job.facts, message)
        try:
            return process.receive(self._pool.lock)
        except (OSError, EOFError):
            return self._bury()

    def _take(self, job: _Job) -> bool:
        """From now on whoever drops the job kills the process; False when it was dropped before."""
        with self._pool.lock:
            self._job, job.keeper = job, self
            return not job.dropped

    def _start(self) -> Process:
        process = Process()
        with self._pool.lock:
            self._process = process
            if self._job is not None and self._job.dropped:
                process.kill()
        return process

    def _bury(self) -> int:
        """Make sure that the process has ended; its exit code."""
        with self._pool.lock:
            # From here on nobody else kills it, for its id may soon belong to another process.
            process, self._process = self._process, None
        return 0 if process is None else process.end()


def _returned(path: str, answer: Answer, errors: ErrorRegistry) -> Returned:
    match answer.kind:
        case "value":
            try:
                return Returned(pickle.loads(answer.pickled or b""), None)
            except Exception as error:  # whatever the value's own methods raise
                problem = f"The result of step {path!r} cannot be loaded here, coming from its process: {_said(error)}."
                return Returned(None, SerializationError(problem))
        case "error":
            return Returned(None, _restored(answer, errors))
        case "not loaded":
            error = _restored(answer, errors)
            problem = f"The function or the arguments of step {path!r} cannot be loaded in a process of their own: {_said(error)}. Both must be importable there, from a main program only if what starts it stands under `if __name__ == '__main__':`."
            return Returned(None, _caused(WorkflowCodeError(problem), error))
        case "not picklable":
            error = _restored(answer, errors)
            problem = f"The result of step {path!r} cannot be sent back from its process: {_said(error)}. With executor='process' it must be picklable."
            return Returned(None, _caused(SerializationError(problem), error))
        case _:
            assert_never(answer.kind)


def _restored(answer: Answer, errors: ErrorRegistry) -> BaseException:
    """The error as it was raised, or, if it cannot travel, as a replay would give it."""
    if answer.pickled is not None:
        with suppress(Exception):  # whatever the error's own methods raise
            error = pickle.loads(answer.pickled)
            if isinstance(error, BaseException):
                return show_origin(error, answer.record)
    return errors.restore(answer.record)


def _caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".")


def _answer(future: asyncio.Future[Returned], returned: Returned) -> None:
    if not future.done():
        future.set_result(returned)


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        # A process that even SIGKILL does not end, stuck in a disk that does not answer, shall not hold us up.
        thread.join(3 * EXIT_SECONDS)


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
