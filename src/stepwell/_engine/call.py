"""A step call: its place, its state, and the scope of the calls that its body makes."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import Struct

from stepwell._engine.outcome import Outcome, Unwound
from stepwell.errors import NoStepContextError, WorkflowCodeError
from stepwell.store.records import HistoryRow

if TYPE_CHECKING:
    from stepwell._engine.emit import Place
    from stepwell._engine.runner import Runner


class Work(Protocol):
    """What a step call does; one class for each verb."""

    @property
    def kind(self) -> str:
        """What is recorded as the kind of step; a path keeps its kind for ever."""
        ...

    async def perform(self, call: Call, record: HistoryRow | None) -> Outcome:
        """Do the work and give the recorded outcome, durable by then. `record` is what an earlier incarnation left."""
        ...

    def value_of(self, call: Call, text: str) -> object:
        """The value that a recorded output stands for; made anew each time."""
        ...

    def same_as(self, other: Work) -> bool:
        """Whether a repeated call asks for the same as the first."""
        ...


class _Gone:
    """The work of a call that was taken apart."""

    kind = "gone"

    async def perform(self, call: Call, record: HistoryRow | None) -> Outcome:
        return await call.runner.unwound()

    def value_of(self, call: Call, text: str) -> object:
        raise Unwound

    def same_as(self, other: Work) -> bool:
        return True


_GONE: Final = _Gone()


class _Nothing:
    """The type of `NOTHING`, where None is a value."""


NOTHING: Final = _Nothing()


class Call(Struct, gc=False, eq=False):
    """One step call of this incarnation. It is also the scope of the calls inside its body; the root is the workflow.

    There is one for each step in memory, so the garbage collector does not follow it: whoever drops an execution takes its
    calls apart.
    """

    runner: Runner
    parent: Call | None
    name: str
    path: str
    seq: int
    work: Work | None
    outcome: Outcome | None = None
    kept: object = NOTHING
    """The live value, until it is handed out."""
    input: str | None = None
    attempt: int = 1
    started_at: int = 0
    task: asyncio.Task[Any] | None = None
    """The task that runs in this scope from its beginning."""
    worker: asyncio.Task[None] | None = None
    """The engine's task that does the work apart from the callers."""
    waiters: list[asyncio.Future[None]] | None = None
    calls: dict[str, Call] | None = None
    """The calls made in this scope, by name."""
    raised: list[BaseException] | None = None
    """Failures of steps inside, as they were raised into the body."""
    places: dict[str, Place] | None = None
    """The streams to which this scope has emitted, since its body began."""
    callers: int = 0
    open_strands: int = 0
    tasks: int = 0
    triggers: int = 0
    index: int | None = None
    resting: bool = False
    announced: bool = False
    closed: bool = False
    cut: bool = False
    timed_out: bool = False
    flagged: bool = False

    @property
    def is_body(self) -> bool:
        """Whether calls in this scope come from a step body rather than from workflow code."""
        return self.work is not None

    def is_at_work(self) -> bool:
        """Whether the running body does more than wait for its steps, as far as one can see.

        A body whose first strand alone is open, while all the tasks that it started are inside step calls, most likely
        waits for them.
        """
        return self.open_strands > 0 and not (self.open_strands == 1 and self.tasks > 0)

    def open_children(self) -> list[Call]:
        """Calls in this scope that have no outcome yet."""
        return [] if self.calls is None else [call for call in self.calls.values() if call.outcome is None]

    def outcome_to_come(self) -> asyncio.Future[None]:
        """A future that is done when the call has its outcome."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.waiters is None:
            self.waiters = []
        self.waiters.append(future)
        return future

    def forget_cancelled(self) -> None:
        """An attempt has failed: what was cancelled with it runs again in the next one."""
        children = self.calls or {}
        for key, child in list(children.items()):
            if child.outcome is not None and child.outcome.status == "cancelled":
                child.remember_children()
                child.take_apart()
                del children[key]
        history, inside = self.runner.history, f"{self.path}/"
        for path, record in list(history.items()):
            if record.status == "cancelled" and path.startswith(inside):
                del history[path]

    def remember_children(self) -> None:
        """This call is going to be forgotten and made again, but what has ended inside it stays recorded."""
        for child in (self.calls or {}).values():
            outcome = child.outcome
            if outcome is None or outcome.status == "cancelled":
                child.remember_children()
            else:
                child.remember(outcome)

    def remember(self, outcome: Outcome) -> None:
        """Put the outcome where a later call of this path finds it, as if it had been read from the store."""
        output, error = (outcome.text, None) if outcome.status == "completed" else (None, outcome.text)
        kind = self.work.kind if self.work is not None else ""
        before = self.runner.history.get(self.path)
        self.runner.history[self.path] = HistoryRow(
            self.path,
            self.seq,
            kind,
            outcome.status,
            self.attempt,
            output,
            error,
            None,
            self.started_at,
            None if before is None else before.undo,
            None,
            self.input,
        )

    def take_apart(self) -> None:
        """Let go of all calls of this scope and of what leads back to it."""
        scopes: list[Call] = [self]
        while scopes:
            scope = scopes.pop()
            if scope.calls is not None:
                scopes.extend(scope.calls.values())
            scope.calls = scope.task = scope.worker = scope.raised = scope.waiters = None
            if scope.work is not None:
                scope.work = _GONE

    def settle_later(self, outcome: Outcome) -> None:
        """The outcome stands, its writing is under way, but whoever did the work is gone."""
        if self.runner.stop is None:
            self.outcome = outcome

    def settle(self, outcome: Outcome) -> None:
        """Set the outcome and wake who waits for it."""
        self.outcome = outcome
        if self.waiters is not None:
            for future in self.waiters:
                if not future.done():
                    future.set_result(None)
            self.waiters.clear()


current: Final[contextvars.ContextVar[Call]] = contextvars.ContextVar("stepwell_call")
"""The scope in which a step call lands: it follows the async context, so branches may run in any order."""


def current_scope(what: str) -> Call:
    """The scope of the running code, or an error that names the call."""
    scope = current.get(None)
    if scope is None:
        raise NoStepContextError(what)
    if scope.closed and not scope.runner.has_left():
        raise WorkflowCodeError(
            f"{what} was called in the scope of step {scope.path!r}, whose body has returned already. Await every step before the body returns."
            if scope.is_body
            else f"{what} was called after its execution had ended. Await every step before the workflow returns."
        )
    return scope


def refuse_in_transaction(call: str, scope: Call | None) -> None:
    """Refuse a call from the function of a `step.transaction`: what it asks for waits for that very function."""
    if scope is not None and scope.work is not None and scope.work.kind == "transaction":
        raise WorkflowCodeError(
            f"{call} was called inside the function of step.transaction({scope.name!r}), which holds the lock of the database. Call it before or after the transaction; to trigger with it, queue a row of your own."
        )


def refuse_in_workflow_code(call: str, verb: str) -> None:
    """Refuse a call that every replay would repeat; inside a step body it is fine."""
    scope = current.get(None)
    refuse_in_transaction(call, scope)
    if scope is not None and not scope.is_body:
        raise WorkflowCodeError(f"{call} was called in workflow code, where every replay would do it again. {verb}")
