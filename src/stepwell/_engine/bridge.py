"""Step calls from threads: the thread blocks, the event loop does the work, and blocking bodies come back to the thread."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Never, TypeVar, cast

from stepwell._engine.call import current_scope
from stepwell._engine.outcome import UNWOUND_LIMIT, Unwound
from stepwell._engine.ports import Returned
from stepwell.errors import WorkflowCodeError

T = TypeVar("T")


class _Order:
    """A body that the calling thread is asked to run."""

    __slots__ = ("context", "fn", "future", "loop")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context,
        fn: Callable[[], object],
        future: asyncio.Future[Returned],
    ) -> None:
        self.loop = loop
        self.context = context
        self.fn = fn
        self.future = future

    def carry_out(self) -> None:
        try:
            returned = Returned(self.context.run(self.fn), None)
        except BaseException as error:
            returned = Returned(None, error)
        self.loop.call_soon_threadsafe(_answer, self.future, returned)


class Mailbox:
    """How the event loop reaches a thread that waits inside a step call."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Order | Returned] = queue.SimpleQueue()

    def submit(self, context: contextvars.Context, fn: Callable[[], object]) -> asyncio.Future[Returned]:
        """Have the waiting thread run `fn` (called in the event loop)."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Returned] = loop.create_future()
        self._queue.put(_Order(loop, context, fn, future))
        return future

    def close(self, returned: Returned) -> None:
        """End the waiting with this."""
        self._queue.put(returned)

    def wait(self) -> Returned:
        """Run what comes in until the call has ended (called in the thread)."""
        while True:
            message = self._queue.get()
            if isinstance(message, Returned):
                return message
            message.carry_out()


class Strand:
    """A thread that runs one side of a `within` or `race`; when it has lost, its step calls raise."""

    def __init__(self) -> None:
        self.lost = False
        self._unwound = 0
        self.tasks: set[asyncio.Task[Any]] = set()

    def lose(self) -> None:
        """Another side has won: what waits inside a step call here raises."""
        self.lost = True
        for task in self.tasks:
            task.cancel()

    def unwound(self) -> Never:
        """Raise what step calls raise in a thread that has lost; one that goes on regardless hangs in the end."""
        self._unwound += 1
        if self._unwound > UNWOUND_LIMIT:
            threading.Event().wait()
        raise Unwound


strand: Final[contextvars.ContextVar[Strand | None]] = contextvars.ContextVar("stepwell_strand", default=None)
carried: Final[contextvars.ContextVar[bool]] = contextvars.ContextVar("stepwell_carried", default=False)


def check_strand() -> None:
    """Stop a thread that has lost its `within` or `race`, whatever has become of the execution since."""
    mine = strand.get()
    if mine is not None and mine.lost:
        mine.unwound()


def call_from_thread(what: str, make: Callable[[Mailbox], Coroutine[Any, Any, T]]) -> T:
    """Run a step call of this thread's scope in the event loop of its execution and wait for it."""
    scope = current_scope(what)
    loop = scope.runner.loop
    if _running_loop() is loop:
        raise WorkflowCodeError(f"{what} blocks and was called in the event loop. Use the async Step there.")
    if scope.runner.stop is not None:
        scope.runner.unwound_in_thread()
    mine = strand.get()
    mailbox = Mailbox()
    context = contextvars.copy_context()
    is_extra = carried.get()

    def begin() -> None:
        if is_extra:
            scope.runner.open_extra(scope)
        task = scope.runner.spawn(_as_coroutine(make, mailbox), context)
        if mine is not None:
            mine.tasks.add(task)
            task.add_done_callback(mine.tasks.discard)
        task.add_done_callback(end)

    def end(task: asyncio.Task[Any]) -> None:
        if is_extra:
            scope.runner.close_extra(scope)
        if task.cancelled():
            mailbox.close(Returned(None, Unwound()))
        elif (error := task.exception()) is not None:
            mailbox.close(Returned(None, error))
        else:
            mailbox.close(Returned(task.result(), None))

    loop.call_soon_threadsafe(begin)
    value, error = mailbox.wait()
    if error is not None:
        raise error
    return cast("T", value)


async def _as_coroutine(make: Callable[[Mailbox], Coroutine[Any, Any, T]], mailbox: Mailbox) -> T:
    return await make(mailbox)


def _answer(future: asyncio.Future[Returned], returned: Returned) -> None:
    if not future.done():
        future.set_result(returned)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
