"""`step.transaction`: attempts of a function that runs inside the transaction that records its step."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from functools import partial
from typing import Final, cast

from stepwell._engine.background import start
from stepwell._engine.body import BodyWork
from stepwell._engine.call import Call, current
from stepwell._engine.journal import LONGEST_PAUSE_SECONDS
from stepwell._engine.outcome import Outcome
from stepwell._engine.undo import Undoable, recorded
from stepwell.errors import SerializationError, StepTimeoutError, StoreUnavailableError, WorkflowCodeError
from stepwell.store.records import HistoryRow, Recorded, RolledBack
from stepwell.store.transitions import Refused, StepFinished

log: Final = logging.getLogger("stepwell")

LONGEST_US: Final = 5_000_000
"""How long a function may hold the lock of the database, for which everybody else waits."""
_FIRST_PAUSE_SECONDS: Final = 0.1


class TransactionWork(BodyWork, gc=False):
    """A function that gets a connection, with the options of a body; `timeout` is always set."""

    @property
    def kind(self) -> str:
        return "transaction"

    async def perform(self, call: Call, record: HistoryRow | None) -> Outcome:
        runner = call.runner
        call.input = self.input
        if record is not None:
            await self.take_up(call, record)
        while True:
            if runner.holding:
                await runner.hold(call)
            if runner.writes or not runner.host.is_lease_sure():
                # Whatever came before must be durable before the function can commit.
                await runner.make_sure()
            ended = await self._attempt_transaction(call)
            if isinstance(ended, Outcome):
                self.args = ()
                return ended
            wait = self.delay(call, ended)
            if wait is None:
                return await self.fail(call, ended)
            await self.retry(call, ended, wait)

    async def _attempt_transaction(self, call: Call) -> Outcome | BaseException:
        """One attempt: what the step came to, or the error that rolled it back."""
        runner = call.runner
        bodies = runner.host.bodies
        call.closed = False
        call.started_at = bodies[call] = runner.clock.now()
        runner.enter_body(call)
        try:
            transaction, answer = await self._send(call)
        finally:
            call.closed = True
            runner.leave_body(call)
            del bodies[call]
        match answer:
            case RolledBack(error):
                if runner.stop is not None:
                    await runner.unwound()
                return transaction.failure(error)
            case Refused():
                runner.lose()
                return await runner.unwound()
            case _:
                if runner.stop is not None:
                    await runner.unwound()
                runner.progressed()
                if answer is None:
                    call.kept = transaction.value
                return transaction.outcome(answer)

    async def _send(self, call: Call) -> tuple[Transaction, Refused | Recorded | RolledBack | None]:
        """Have the store run it; again, while the database cannot be written, for then nothing was committed."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            transaction = Transaction(self, call)
            try:
                return transaction, await self._answer(call, transaction)
            except StoreUnavailableError as error:
                log.error(
                    "Step %r of %s was not written; next try in %.1f s: %s", call.path, call.runner.id, pause, error
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _answer(self, call: Call, transaction: Transaction) -> Refused | Recorded | RolledBack | None:
        """Wait for the answer. A caller who is cancelled stops the function if it can still be stopped."""
        runner = call.runner
        job = start(runner.host.journal.transact_step(transaction), name="stepwell-transaction")
        watch = _Watch(runner.loop, transaction)
        cancelled: asyncio.CancelledError | None = None
        while not job.done():
            try:
                await asyncio.wait([job])
            except asyncio.CancelledError as error:
                cancelled = error
                transaction.withdraw()
        watch.stop()
        if job.exception() is None and isinstance(answer := job.result(), Recorded | None):
            outcome = transaction.outcome(answer)
            if outcome.status == "completed" and transaction.undo is not None and self.undo is not None:
                runner.keep_undo(Undoable(call.path, call.seq, outcome.text or "null", self.undo))
            if cancelled is not None:
                # The record tells what happened: it was written, or the step is recorded as cancelled.
                call.settle_later(outcome)
        if cancelled is not None:
            raise cancelled
        return job.result()


class Transaction:
    """One sending of an attempt to the store; used by the event loop and by the thread that writes."""

    def __init__(self, work: TransactionWork, call: Call) -> None:
        runner = call.runner
        self.execution_id = runner.id
        self.epoch = runner.epoch
        self.run = runner.run
        self.path = call.path
        self.value: object = None
        self.timeout = cast("int", work.timeout)
        self.began_at: int | None = None
        """In `Clock.uptime()`; None until the function begins."""
        self._work = work
        self._call = call
        self._clock = runner.clock
        self.undo = None if work.undo is None or runner.ending is not None else recorded(call, work.undo)
        """What is recorded of its undo; a run that is cleaning up already needs none."""
        self._context = contextvars.copy_context()
        self._context.run(current.set, call)
        self._text = ""
        self._lock = threading.Lock()
        self._withdrawn = False
        self._late = False
        self._closed = False

    def elapsed(self) -> int:
        """Microseconds since the function began."""
        return 0 if self.began_at is None else self._clock.uptime() - self.began_at

    def withdraw(self) -> None:
        """Nobody wants it any more: roll it back, unless the last word has been spoken."""
        with self._lock:
            self._withdrawn = not self._closed

    def outcome(self, answer: Recorded | None) -> Outcome:
        """What the step came to once it is recorded."""
        match answer:
            case None:
                return Outcome("completed", self._text)
            case Recorded("completed", output, _):
                return Outcome("completed", output)
            case Recorded("failed", _, error):
                return Outcome("failed", error)
            case _:
                return Outcome("cancelled", None)

    def failure(self, error: BaseException | None) -> BaseException:
        """The error of an attempt that was rolled back."""
        if self._late or error is None:
            return StepTimeoutError(self.path, self.timeout / 1_000_000)
        return error

    # In the thread that writes

    def begin(self) -> bool:
        with self._lock:
            if not self._withdrawn:
                self.began_at = self._clock.uptime()
            return not self._withdrawn

    def is_over(self) -> bool:
        self._late = self._late or self.elapsed() > self.timeout
        return self._late or self._withdrawn

    def call(self, connection: object, /) -> StepFinished:
        work, call = self._work, self._call
        value = self._context.run(partial(work.fn, connection, *work.args))
        if inspect.isawaitable(value):
            close = getattr(value, "close", None)
            if close is not None:
                close()
            raise WorkflowCodeError(
                f"The function of step.transaction({call.name!r}) returned {value!r}. It must be a plain function that returns its result."
            )
        try:
            self._text, self.value = work.codec.snapshot(value)
            call.runner.check_size(self._text, f"The result of step {call.path!r}")
        except SerializationError as refused:
            raise SerializationError(f"Step {call.path!r}: {refused}") from refused
        return work.finished(call, "completed", self._text, None, self.undo)

    def close(self) -> bool:
        with self._lock:
            self._closed = not self.is_over()
            return self._closed


class _Watch:
    """Warns when a function blocks everything that is to be written for longer than it may."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transaction: Transaction) -> None:
        self._loop = loop
        self._transaction = transaction
        self._handle = loop.call_later(transaction.timeout / 1_000_000, self._look)

    def stop(self) -> None:
        self._handle.cancel()

    def _look(self) -> None:
        transaction = self._transaction
        left = transaction.timeout - transaction.elapsed()
        if left <= 0:
            log.warning(
                "The function of step %r of execution %s has been running for %.1f s and holds the write lock of the database: nothing can be written until it returns, and then it is rolled back",
                transaction.path,
                transaction.execution_id,
                transaction.elapsed() / 1_000_000,
            )
            left = LONGEST_US
        self._handle = self._loop.call_later(left / 1_000_000 + 0.01, self._look)
