"""What a caller holds of an execution: the handle, and the snapshots that it gives."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from stepwell import operating
from stepwell._engine.call import refuse_in_workflow_code
from stepwell._engine.failure import error_summary
from stepwell._tagged import for_people
from stepwell.clock import from_us
from stepwell.codec import Codec
from stepwell.duration import Duration
from stepwell.errors import StepwellError
from stepwell.ids import unquote_step_name
from stepwell.store.records import AttemptRow, ExecutionRow, RunRow, StepRow, StreamRow
from stepwell.store.transitions import EventSent
from stepwell.streams import StreamItem, check_stream, item_of
from stepwell.types import TERMINAL, Status, StepStatus

if TYPE_CHECKING:
    from stepwell.client import Client

Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """A recorded error: dotted type, message, and the formatted traceback of where it was raised."""

    type: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionInfo:
    """An execution at one moment. Times are UTC; `input` and `output` are None in lists, which load no payloads.

    `waiting_for` names the step that a sleeping execution waits for, or says why a queued one cannot go on;
    `reason` is what `cancel` or `step.abort` was given. `ending` is what a living execution will end as when that is decided
    already and only its undos and `on_error` are left.
    """

    id: str
    workflow: str
    status: Status
    input: Any = None
    output: Any = None
    error: ErrorInfo | None = None
    run_number: int
    version: str | None
    tags: tuple[str, ...]
    parent_id: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    wake_at: datetime | None
    waiting_for: str | None
    reason: str | None
    priority: int
    ending: Literal["failed", "cancelled"] | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether this run has ended."""
        return self.status in TERMINAL

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; times in ISO 8601."""
        return cast("dict[str, Any]", _plain(asdict(self)))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptInfo:
    """A failed attempt of a step."""

    attempt: int
    error: ErrorInfo
    started_at: datetime
    finished_at: datetime
    worker: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """A recorded step.

    `attempts` are the failed ones; `flag` says what people should know, e.g. `repeated`; `awaits` is the name of the event
    that the step listens for, or the id of the execution that it has started or waits for. `undone`: its undo has
    run; one that failed is the failed step `#undo/<path>`.
    """

    path: str
    name: str
    kind: str
    status: StepStatus
    attempt: int
    input: Any
    output: Any
    error: ErrorInfo | None
    flag: str | None
    started_at: datetime
    finished_at: datetime | None
    wake_at: datetime | None
    awaits: str | None
    undone: bool = False
    attempts: tuple[AttemptInfo, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; times in ISO 8601."""
        return cast("dict[str, Any]", _plain(asdict(self)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """One run of an execution. Input and output are JSON values; `reason` says why it was cancelled or aborted."""

    run: int
    status: Status
    input: Any
    output: Any
    error: ErrorInfo | None
    reason: str | None
    started_at: datetime | None
    finished_at: datetime | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; times in ISO 8601."""
        return cast("dict[str, Any]", _plain(asdict(self)))


@dataclass(frozen=True, slots=True)
class ExecutionList:
    """A page of executions, newest first; pass `next_cursor` on for the next one, None means that this is the last."""

    executions: list[ExecutionInfo]
    next_cursor: str | None


class Execution(Generic[Out]):
    """A handle to one execution. It holds only the id: every method asks the database."""

    __slots__ = ("_client", "_output_codec", "id")

    def __init__(self, client: Client, execution_id: str, output_codec: Codec | None = None) -> None:
        self._client = client
        self._output_codec = output_codec
        self.id = execution_id

    @property
    def output_codec(self) -> Codec | None:
        """How its output is restored; None if its workflow is not known here."""
        return self._output_codec

    def __repr__(self) -> str:
        return f"Execution({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Execution) and cast("Execution[Any]", other).id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    async def status(self) -> Status:
        """The status at this moment.

        Raises:
            ExecutionNotFoundError: No execution has this id.
        """
        return cast("Status", (await self._client.row(self.id)).status)

    async def info(self) -> ExecutionInfo:
        """All about the execution at this moment, with typed output."""
        return info_of(await self._client.row(self.id), self._output_codec)

    async def result(self, timeout: Duration | None = None) -> Out:
        """Wait for the end and give the output.

        Args:
            timeout: How long to wait; None waits for ever. The execution itself goes on.

        Raises:
            ExecutionFailedError: It failed; the error is its `__cause__`.
            ExecutionCancelledError, ExecutionAbortedError: It ended so.
            TimeoutError: It has not ended in time.
        """
        refuse_in_workflow_code("Execution.result()", "Use step.wait_for_workflow(name, execution).")
        return cast("Out", await self._client.result(self.id, self._output_codec, timeout))

    async def cancel(self, reason: str | None = None, undo: bool = False) -> None:
        """End the execution as `cancelled`, at once and finally.

        Written in a transaction of its own: no further step starts, running async bodies are cancelled, results that
        come later are thrown away. Cancelling a cancelled execution does nothing.

        Args:
            reason: At most 2,000 characters; kept with the execution.
            undo: Undo its completed steps first. At once nothing runs any more; then a worker takes the execution up,
                runs the undos, which its timeout does not stop, and nothing else, and ends it as `cancelled`. Until then
                `info().ending` is `cancelled`, and a plain `cancel` ends it without the rest. Without anything to undo
                it ends at once.

        Raises:
            InvalidTransitionError: It has ended otherwise; or, with `undo`, it is failing and undoes its steps already.
        """
        refuse_in_workflow_code("Execution.cancel()", "Move it into a step: step.run('cancel', …).")
        await self._client.cancel(self.id, reason, undo=undo)

    async def send_event(
        self, name: str, payload: object = None, *, id: str | None = None, connection: object = None
    ) -> None:
        """Send an event: a step that listens for this name receives it, now or when it comes to listen.

        The event is stored before this returns and delivered exactly once; events of one name are received in the order
        in which they were accepted. Inside a step body an event without `id` gets one derived from the step, so that a body
        that runs again does not send a second one.

        Args:
            name: The name that `step.listen` waits for.
            payload: What `step.listen` returns: JSON values, built-in types, or an instance of the type it `returns`.
            id: Your own id for the event: sent again with the same id, it counts once.
            connection: Your own open transaction on the same database, as in `Workflow.trigger`: the event is sent if and
                only if it commits.

        Raises:
            ExecutionNotFoundError: No execution has this id.
            InvalidTransitionError: It has ended.
            InvalidInputError: The name, the id or the payload cannot be taken, or the id belongs to another event.
        """
        event = self._new_event(name, payload, id)
        if connection is not None:
            self._client.send_event_with(connection, event)
        else:
            await self._client.send_event(event)

    def _new_event(self, name: str, payload: object, id: str | None) -> EventSent:
        refuse_in_workflow_code("Execution.send_event()", "Move it into a step: step.run('send', …).")
        return self._client.new_event(self.id, name, payload, id)

    async def children(self) -> list[ExecutionInfo]:
        """The executions that this one has started as children, oldest first, without payloads; 1,000 at most."""
        return [info_of(row) for row in await self._client.reader.children(self.id)]

    async def delete(self) -> None:
        """Delete the execution, with everything that is kept of it, for ever.

        Only one that has ended, and none that a living execution refers to: one that waits for its end, or the parent of
        an attached child. Written in one transaction. Its children stay, with its id as their parent. Afterwards the id is
        free.

        Raises:
            ExecutionNotFoundError: No execution has this id, any more or yet.
            InvalidTransitionError: It has not ended (cancel it first), or a living execution refers to it.
        """
        refuse_in_workflow_code("Execution.delete()", "Move it into a step: step.run('delete', …).")
        await self._client.delete(self.id)

    async def export(self) -> dict[str, Any]:
        """Everything that is kept of the execution, at one moment, as one JSON-ready document.

        All runs with their steps and failed attempts, inputs, outputs, errors, events, tags and the ids of children. Its
        format is described in `docs/export.md` and has a version, `format_version`.

        Raises:
            ExecutionNotFoundError: No execution has this id.
        """
        return await self._client.export(self.id)

    async def pause(self) -> None:
        """Start nothing new until `resume`. Bodies that run end, and their results are recorded.

        Written at once (status `paused`). The execution leaves memory when its last body has ended; a body that waits for a
        step inside it is entered again later. Deadlines and stored sleeps go on: an execution whose timeout passes while
        it is paused fails then. One that has nothing left to do but return completes. Pausing a paused one does nothing.

        Raises:
            InvalidTransitionError: It has ended.
        """
        refuse_in_workflow_code("Execution.pause()", "Move it into a step: step.run('pause', …).")
        await operating.pause(self._client, self.id)

    async def resume(self) -> None:
        """Let a paused execution go on at once. A sleep whose time has not come goes on with its old deadline.

        Raises:
            InvalidTransitionError: It is not paused.
        """
        refuse_in_workflow_code("Execution.resume()", "Move it into a step: step.run('resume', …).")
        await operating.resume(self._client, self.id)

    async def wake(self) -> None:
        """End what it sleeps for now, and the backoff of steps that are to be tried again; their steps are flagged `woken`.

        Steps that listen, deadlines and the delay of an execution that was never started are left alone. A paused one
        goes on once it is resumed.

        Raises:
            InvalidTransitionError: No sleep and no backoff is open.
        """
        refuse_in_workflow_code("Execution.wake()", "Move it into a step: step.run('wake', …).")
        await operating.wake(self._client, self.id)

    async def restart(self, *, from_step: str | None = None, input: Any = ...) -> None:
        """Begin a new run from the beginning, or from a step. One that still runs is cancelled first.

        Idempotency keys are new, and so are the timeout and the count of crashes. The history of earlier runs stays: see
        `runs` and `steps(run=…)`. Written in one transaction; a handle's `result` waits for the end of the new run.

        Args:
            from_step: The path of a step: what was recorded before its first record is kept and does not run again, except
                what was cancelled or undone. The steps around it and inside it run again.
            input: Another input; it is checked as that of a trigger. Kept steps have seen the old one.

        Raises:
            InvalidInputError: There is no such step, or the input cannot be taken; nothing has changed.
            InvalidTransitionError: Another run has begun at the same time.
        """
        refuse_in_workflow_code("Execution.restart()", "Move it into a step: step.run('restart', …).")
        await operating.restart(self._client, self.id, from_step, input)

    async def retry(self) -> None:
        """Try again what failed: a new run that keeps every result except of failed, cancelled and undone steps.

        Idempotency keys stay as they were, so that the other side can tell that it is the same request.

        Raises:
            InvalidTransitionError: It is not failed, cancelled or aborted, or another run has begun at the same time.
        """
        refuse_in_workflow_code("Execution.retry()", "Move it into a step: step.run('retry', …).")
        await operating.retry(self._client, self.id)

    async def fork(self, *, from_step: str | None = None, input: Any = ...) -> Execution[Out]:
        """Start another execution that has done the same up to a step, and give its handle. This one goes on untouched.

        The new one has an id and idempotency keys of its own, and the same workflow, tags and timeout, but no parent.
        In a step body the id is derived from the step, so that a body that runs again does not start a second one.

        Args:
            from_step: As in `restart`; None begins from the beginning.
            input: Another input; it is checked as that of a trigger.

        Raises:
            InvalidInputError: There is no such step, or the input cannot be taken; nothing was written.
        """
        refuse_in_workflow_code("Execution.fork()", "Move it into a step: step.run('fork', …).")
        return Execution(
            self._client, await operating.fork(self._client, self.id, from_step, input), self._output_codec
        )

    async def runs(self) -> list[RunInfo]:
        """The runs of the execution, oldest first; the last one is the current one."""
        await self._client.row(self.id)
        return [run_of(row) for row in await self._client.reader.runs(self.id)]

    async def steps(self, run: int | None = None) -> list[StepInfo]:
        """The recorded steps of a run (default: the current one) in order of their start."""
        await self._client.row(self.id)
        return [step_of(row) for row in await self._client.reader.steps(self.id, run)]

    async def watch(self) -> AsyncGenerator[ExecutionInfo]:
        """The execution now, and again after each change of it or of its steps, until it has ended."""
        async for row in self._client.watch(self.id):
            yield info_of(row, self._output_codec)

    def stream(self, name: str, after: int = 0, *, follow: bool = True) -> AsyncIterator[StreamItem]:
        """What the execution emits to a stream, live, until its run has ended and everything was given.

        A stream that nobody has written to yet is waited for. Values come once each, in order; after an interruption go
        on with `after=item.offset`.

        Args:
            name: The stream, as `step.emit` names it.
            after: The offset of the last value that you have; 0 for the beginning.
            follow: False stops after what has been emitted so far.

        Raises:
            ExecutionNotFoundError: No execution has this id.
        """
        refuse_in_workflow_code("Execution.stream()", "Follow it in a step: step.run('follow', …).")
        check_stream(name, after)
        return self._items(name, after, follow)

    async def _items(self, name: str, after: int, follow: bool) -> AsyncIterator[StreamItem]:
        async for rows in self._client.followers.pages(self.id, name, after, follow=follow):
            for row in rows:
                yield item_of(row)

    def status_sync(self) -> Status:
        """`status` for code without an event loop."""
        return self._client.portal(self.status)

    def info_sync(self) -> ExecutionInfo:
        """`info` for code without an event loop."""
        return self._client.portal(self.info)

    def result_sync(self, timeout: Duration | None = None) -> Out:
        """`result` for code without an event loop."""
        return self._client.portal(lambda: self.result(timeout))

    def send_event_sync(
        self, name: str, payload: object = None, *, id: str | None = None, connection: object = None
    ) -> None:
        """`send_event` for code without an event loop; with `connection=` it writes in this thread."""
        if connection is None:
            self._client.portal(lambda: self.send_event(name, payload, id=id))
            return

        async def new() -> EventSent:
            return self._new_event(name, payload, id)

        self._client.send_event_with(connection, self._client.portal(new))

    def stream_sync(self, name: str, after: int = 0, *, follow: bool = True) -> Iterator[StreamItem]:
        """`stream` for code without an event loop: a plain iterator, which blocks until the next value."""
        refuse_in_workflow_code("Execution.stream_sync()", "Follow it in a step: step.run('follow', …).")
        check_stream(name, after)
        return self._items_sync(name, after, follow)

    def _items_sync(self, name: str, after: int, follow: bool) -> Iterator[StreamItem]:
        pages: AsyncIterator[Sequence[StreamRow]] | None = None

        async def next_page() -> Sequence[StreamRow] | None:
            nonlocal pages
            if pages is None:
                # In the loop, which the first call may have to start.
                pages = self._client.followers.pages(self.id, name, after, follow=follow)
            return await anext(pages, None)

        while rows := self._client.portal(next_page):
            for row in rows:
                yield item_of(row)

    def cancel_sync(self, reason: str | None = None, undo: bool = False) -> None:
        """`cancel` for code without an event loop."""
        self._client.portal(lambda: self.cancel(reason, undo))

    def delete_sync(self) -> None:
        """`delete` for code without an event loop."""
        self._client.portal(self.delete)

    def export_sync(self) -> dict[str, Any]:
        """`export` for code without an event loop."""
        return self._client.portal(self.export)

    def pause_sync(self) -> None:
        """`pause` for code without an event loop."""
        self._client.portal(self.pause)

    def resume_sync(self) -> None:
        """`resume` for code without an event loop."""
        self._client.portal(self.resume)

    def wake_sync(self) -> None:
        """`wake` for code without an event loop."""
        self._client.portal(self.wake)

    def restart_sync(self, *, from_step: str | None = None, input: Any = ...) -> None:
        """`restart` for code without an event loop."""
        self._client.portal(lambda: self.restart(from_step=from_step, input=input))

    def retry_sync(self) -> None:
        """`retry` for code without an event loop."""
        self._client.portal(self.retry)

    def fork_sync(self, *, from_step: str | None = None, input: Any = ...) -> Execution[Out]:
        """`fork` for code without an event loop."""
        return self._client.portal(lambda: self.fork(from_step=from_step, input=input))


def info_of(row: ExecutionRow, output_codec: Codec | None = None) -> ExecutionInfo:
    """The public view of a row."""
    return ExecutionInfo(
        id=row.id,
        workflow=row.workflow,
        status=cast("Status", row.status),
        input=_shown(row.input),
        output=_shown(row.output) if output_codec is None or row.output is None else _typed(output_codec, row.output),
        error=_error(row.error),
        run_number=row.run,
        version=row.version,
        tags=row.tags,
        parent_id=row.parent_id,
        created_at=from_us(row.created_at),
        started_at=_moment(row.started_at),
        finished_at=_moment(row.finished_at),
        wake_at=_moment(row.wake_at) if row.status in ("queued", "sleeping", "listening") else None,
        waiting_for=row.waiting_for,
        reason=row.reason,
        priority=row.priority,
        ending=None if row.status in TERMINAL else cast("Literal['failed', 'cancelled'] | None", row.ending),
    )


def run_of(row: RunRow) -> RunInfo:
    """The public view of a run's row."""
    return RunInfo(
        run=row.run,
        status=cast("Status", row.status),
        input=_shown(row.input),
        output=_shown(row.output),
        error=_error(row.error),
        reason=row.reason,
        started_at=_moment(row.started_at),
        finished_at=_moment(row.finished_at),
    )


def step_of(row: StepRow) -> StepInfo:
    """The public view of a step's row."""
    return StepInfo(
        path=row.path,
        name=_step_name(row),
        kind=row.kind,
        status=cast("StepStatus", row.status),
        attempt=row.attempt,
        input=_shown(row.input),
        output=_shown(row.output),
        error=_error(row.error),
        flag=row.flag,
        started_at=from_us(row.started_at),
        finished_at=_moment(row.finished_at),
        wake_at=_moment(row.wake_at),
        awaits=row.awaits,
        undone=bool(row.undone),
        attempts=tuple(_attempt(attempt) for attempt in row.attempts),
    )


def _attempt(row: AttemptRow) -> AttemptInfo:
    return AttemptInfo(
        attempt=row.attempt,
        error=cast("ErrorInfo", _error(row.error)),
        started_at=from_us(row.started_at),
        finished_at=from_us(row.finished_at),
        worker=row.worker,
    )


def _step_name(row: StepRow) -> str:
    if row.kind == "progress" and row.output is not None:
        milestone = for_people(row.output)
        return str(cast("dict[str, object]", milestone)["message"] if isinstance(milestone, dict) else milestone)
    return unquote_step_name(row.path.rpartition("/")[2])


def _error(text: str | None) -> ErrorInfo | None:
    return None if text is None else ErrorInfo(*error_summary(text))


def _shown(text: str | None) -> Any:
    return None if text is None else for_people(text)


def shown(text: str | None) -> Any:
    """A stored payload as people see it."""
    return _shown(text)


def error_of(text: str | None) -> ErrorInfo | None:
    """A stored error as people see it."""
    return _error(text)


def _typed(codec: Codec, text: str) -> Any:
    try:
        return codec.decode(text)
    except StepwellError:
        # An older program wrote it; what is stored is better than nothing.
        return for_people(text)


def _moment(value: int | None) -> datetime | None:
    return None if value is None else from_us(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, datetime):
        return value.isoformat()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return json.loads(json.dumps(value, default=str))
