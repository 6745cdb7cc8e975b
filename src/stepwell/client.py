"""Triggering, looking, waiting and cancelling: what programs ask of executions, with or without a worker beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from stepwell._engine.call import Call, current
from stepwell._engine.definition import NO_INPUT, Definition
from stepwell._engine.failure import ErrorRegistry, check_reason, error_summary
from stepwell._engine.journal import Journal, Sender
from stepwell._same import is_same
from stepwell.clock import Clock
from stepwell.codec import NO_ANNOTATION, Codec, codec_for
from stepwell.duration import Duration, to_us
from stepwell.endings import POLL_SECONDS, Ending, Endings, ending_of
from stepwell.errors import (
    ExecutionAbortedError,
    ExecutionCancelledError,
    ExecutionExistsError,
    ExecutionFailedError,
    ExecutionNotFoundError,
    InvalidInputError,
    InvalidTransitionError,
    PayloadCodecError,
    SerializationError,
)
from stepwell.execution import Execution, ExecutionList, info_of
from stepwell.export import document_of
from stepwell.ids import Ids, check_event_name, check_id, digest
from stepwell.store.protocol import Store, StoreReader
from stepwell.store.records import ExecutionFilter, ExecutionRow
from stepwell.store.transitions import (
    EventSent,
    Exists,
    NewExecution,
    Over,
    Transition,
    Triggered,
    TriggeredMany,
    Unknown,
    Verdict,
)
from stepwell.streams import Followers
from stepwell.types import STATUSES, TERMINAL

T = TypeVar("T")

ORPHANS_AT_ONCE: Final = 500


class LocalWorker(Protocol):
    """What a client asks of the worker in its own process."""

    @property
    def worker_id(self) -> str: ...

    def admit(self, definition: Definition) -> bool:
        """Take a place for a direct start, if there is one and nobody waits in the queue."""
        ...

    def starter(self, definition: Definition, new: NewExecution) -> Sender:
        """Who starts the execution once its trigger is durable, whatever becomes of the caller."""
        ...

    def taken(self, execution_id: str) -> None:
        """An execution was taken away from this worker by this process."""
        ...

    def signalled(self, execution_id: str) -> None:
        """This process has paused an execution, ended its waits, or let it go on."""
        ...

    def begun_anew(self, execution_id: str, run: int) -> None:
        """This process has begun a new run of an execution, or a new execution."""
        ...

    def look(self) -> None:
        """Something may have become claimable."""
        ...

    def event(self, execution_id: str, name: str) -> None:
        """An execution has an event."""
        ...

    def ended(self, execution_id: str, *, bad: bool) -> None:
        """An execution has ended."""
        ...

    def is_resident(self, execution_id: str) -> bool:
        """Whether the execution is in this worker's memory now."""
        ...


class Client:
    """Access to the executions of one database."""

    def __init__(
        self,
        *,
        store: Store,
        reader: StoreReader,
        journal: Journal,
        clock: Clock,
        ids: Ids,
        errors: ErrorRegistry,
        definitions: Mapping[str, Definition],
        payload_limit: int,
        portal: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any],
    ) -> None:
        self.store = store
        self.reader = reader
        self.definitions = definitions
        self.portal = portal
        self.worker: LocalWorker | None = None
        self._journal = journal
        self._clock = clock
        self._ids = ids
        self._errors = errors
        self._payload_limit = payload_limit
        self._endings = Endings(store)
        self.followers = Followers(reader, store.url)
        """Who follows streams."""
        self._changed: set[asyncio.Event] = set()
        self._unsubscribe = store.subscribe(self._on_change)
        journal.on_written = self.changed

    def close(self) -> None:
        """Stop listening; waits that are open raise."""
        self._unsubscribe()
        self._endings.close()
        self.followers.close()

    # ---------------------------------------------------------------------------------------------- triggering

    def new_execution(
        self,
        definition: Definition,
        input: object,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: int | None = None,
        priority: int = 0,
        tags: Sequence[str] = (),
        timeout: Duration | None = None,
    ) -> NewExecution:
        """Check everything about a trigger and make its record; nothing is written."""
        now = self._clock.now()
        wake_at = at
        if delay is not None:
            if at is not None:
                raise InvalidInputError("Give either delay or at, not both.")
            wake_at = now + to_us(delay, what="delay")
        text = self.input_text(definition, input)
        if isinstance(priority, bool) or not isinstance(priority, int) or not -(2**31) <= priority < 2**31:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"priority must be a whole number of 32 bits, got {priority!r}.")
        limit = definition.options.timeout if timeout is None else to_us(timeout, what="timeout", minimum=1)
        request = None
        if id is not None:
            request = self.token()
        elif current.get(None) is not None:
            request = id = self.new_id()
        return NewExecution(
            id=id or self._ids.new(),
            workflow=definition.name,
            input=text,
            created_at=now,
            wake_at=now if wake_at is None else wake_at,
            priority=priority,
            version=definition.options.version,
            retention=definition.options.retention,
            timeout=limit,
            tags=(*definition.options.tags, *checked_tags(tags)),
            request=request,
        )

    def new_id(self) -> str:
        """A new id. A body may run again, and then makes the same one: so it meets what it made the first time."""
        scope = current.get(None)
        if scope is None:
            return self._ids.new()
        return _derived_id(scope)

    def token(self) -> str:
        """A random token that tells two requests apart."""
        return self._ids.token()

    def now(self) -> int:
        """The time."""
        return self._clock.now()

    def input_text(self, definition: Definition, input: object) -> str:
        """The input as it is stored, or InvalidInputError."""
        definition.check_keys()
        if not definition.takes_input:
            if input is not None:
                raise InvalidInputError(f"Workflow {definition.name!r} takes no input, got {input!r}.")
            return NO_INPUT
        try:
            text = definition.input_codec.validate(input)
        except InvalidInputError as error:
            raise InvalidInputError(f"Workflow {definition.name!r}: {error}") from error
        if len(text) > self._payload_limit // 4 and len(text.encode()) > self._payload_limit:
            raise InvalidInputError(
                f"The input of workflow {definition.name!r} takes {len(text.encode()):,} bytes as JSON; at most {self._payload_limit:,} are allowed. Store large data elsewhere and pass a reference, or raise App(payload_limit=…)."
            )
        return text

    async def trigger(self, definition: Definition, new: NewExecution, *, if_exists: str) -> str:
        """Write one execution; durable on return. A worker in this process with a free place starts it at once.

        Not so from a step body: a body that runs again meets the execution that it made before, and must not start it.
        """
        _check_if_exists(if_exists)
        sender: Sender | None = None
        if self.worker is not None:
            direct = new.wake_at == new.created_at and current.get(None) is None
            if direct and self.worker.admit(definition):
                deadline = None if new.timeout is None else new.created_at + new.timeout
                new = _owned(new, self.worker.worker_id, deadline)
                sender = self.worker.starter(definition, new)
            else:
                sender = _LookAfterwards(self.worker)
        verdict = await self._journal.append(Triggered(new), sender)
        return await self.triggered(definition, new, verdict, if_exists=if_exists)

    def trigger_with(self, connection: object, new: NewExecution, *, if_exists: str) -> Verdict:
        """Write one execution in the caller's transaction, in this thread; it is queued if and only if that commits.

        Pass the verdict on to `triggered`, in the event loop.
        """
        _check_if_exists(if_exists)
        [verdict] = self.store.enlist(connection, [Triggered(new)])
        return verdict

    async def triggered(self, definition: Definition, new: NewExecution, verdict: Verdict, *, if_exists: str) -> str:
        """What came of a trigger: the id of the execution, or the error that says why there is none."""
        if isinstance(verdict, Exists) and if_exists == "return" and not verdict.same:
            verdict = Exists(new.id, same=await self._is_same(definition, new))
        _check_triggered(new, verdict, if_exists)
        return new.id

    async def _is_same(self, definition: Definition, new: NewExecution) -> bool:
        """Whether the execution that is there has the same input, written otherwise: a secret has a new text each time."""
        row = await self.reader.execution(new.id)
        if row is None or row.input is None or row.workflow != new.workflow:
            return False
        codec = definition.input_codec
        try:
            return is_same(codec.decode(row.input), codec.decode(new.input))
        except PayloadCodecError:
            raise
        except SerializationError:  # what is there was written by other code
            return False

    async def trigger_many(self, news: Sequence[NewExecution]) -> None:
        """Write all of them or none."""
        if not news:
            return
        sender = None if self.worker is None else _LookAfterwards(self.worker)
        _check_triggered_many(await self._journal.append(TriggeredMany(tuple(news)), sender))

    def trigger_many_with(self, connection: object, news: Sequence[NewExecution]) -> None:
        """Write all of them or none in the caller's transaction."""
        if news:
            [verdict] = self.store.enlist(connection, [TriggeredMany(tuple(news))])
            _check_triggered_many(verdict)

    async def send_event(self, event: EventSent) -> None:
        """See Execution.send_event."""
        sender = None if self.worker is None else _Deliver(self.worker)
        verdict = await self._journal.append(event, sender)
        if verdict is not None:
            raise refusal_of(event, verdict)

    def send_event_with(self, connection: object, event: EventSent) -> None:
        """Send an event in the caller's transaction, in this thread."""
        [verdict] = self.store.enlist(connection, [event])
        if verdict is not None:
            raise refusal_of(event, verdict)

    def new_event(self, execution_id: str, name: str, payload: object, id: str | None) -> EventSent:
        """Check everything about an event and make its record; nothing is written."""
        check_event_name(name)
        text = self._payload_text(name, payload)
        scope = current.get(None)
        if id is not None:
            check_id(id, "id")
        elif scope is not None:
            id = _derived_id(scope)
        return EventSent(execution_id, name, text, id or self._ids.token(), self._clock.now())

    def _payload_text(self, name: str, payload: object) -> str:
        try:
            try:
                text = codec_for(NO_ANNOTATION).encode(payload)
            except SerializationError:
                text = codec_for(type(payload)).encode(payload)
        except SerializationError as error:
            raise InvalidInputError(f"The payload of event {name!r} cannot be stored: {error}") from error
        if len(text.encode()) > self._payload_limit:
            raise InvalidInputError(
                f"The payload of event {name!r} takes {len(text.encode()):,} bytes as JSON; at most {self._payload_limit:,} are allowed."
            )
        return text

    # ---------------------------------------------------------------------------------------------- looking

    async def row(self, execution_id: str) -> ExecutionRow:
        """The execution's row, or ExecutionNotFoundError."""
        row = await self.reader.execution(execution_id)
        if row is None:
            raise ExecutionNotFoundError(execution_id)
        return row

    async def list_executions(self, query: ExecutionFilter) -> ExecutionList:
        """A page of executions."""
        page = await self.reader.executions(query)
        return ExecutionList([info_of(row) for row in page.rows], page.next_cursor)

    async def find(self, text: str) -> Execution[Any]:
        """The execution that `latest`, `latest:<status>`, an id or a unique prefix of one means."""
        name, _, status = text.partition(":")
        if name == "latest":
            if status and status not in STATUSES:
                raise InvalidInputError(f"status must be one of {', '.join(STATUSES)}, got {status!r}.")
            page = await self.reader.executions(ExecutionFilter(statuses=(status,) if status else (), limit=1))
            if not page.rows:
                wanted = f"{status} execution" if status else "execution"
                raise ExecutionNotFoundError(text, f"There is no {wanted} in this database.")
            return Execution(self, page.rows[0].id)
        if not text:
            raise InvalidInputError(
                "An execution is found by its id, a beginning of it, 'latest' or 'latest:<status>'."
            )
        if await self.reader.execution(text) is not None:
            return Execution(self, text)
        page = await self.reader.executions(ExecutionFilter(id_prefix=text, limit=5))
        if not page.rows:
            raise ExecutionNotFoundError(text)
        if len(page.rows) > 1:
            raise InvalidInputError(
                f"{text!r} begins more than one id: {', '.join(row.id for row in page.rows)}. Type more of it."
            )
        return Execution(self, page.rows[0].id)

    async def watch(self, execution_id: str) -> AsyncIterator[ExecutionRow]:
        """The row now and after each change of the execution or its steps, until it has ended."""
        changed = asyncio.Event()
        self._changed.add(changed)
        seen: tuple[object, ...] | None = None
        try:
            while True:
                changed.clear()
                revision = await self.reader.revision(execution_id)
                if revision != seen:
                    seen = revision
                    row = await self.row(execution_id)
                    yield row
                    if row.status in TERMINAL:
                        return
                await _wait_at_most(changed, POLL_SECONDS)
        finally:
            self._changed.discard(changed)

    # ---------------------------------------------------------------------------------------------- waiting, ending

    async def result(self, execution_id: str, codec: Codec | None, timeout: Duration | None) -> Any:
        """Wait for the end; the output, or the error that says how it ended."""
        seconds = None if timeout is None else to_us(timeout, what="timeout") / 1_000_000
        ending = None
        if self.worker is None or not self.worker.is_resident(execution_id):
            row = await self.row(execution_id)
            ending = ending_of(row) if row.status in TERMINAL else None
            # It may end before the wait below begins: look once more after that.
            asyncio.get_running_loop().call_soon(self._endings.look)
        if ending is None and seconds is None:
            ending = await self._ended(execution_id)
        elif ending is None:
            try:
                async with asyncio.timeout(seconds):
                    ending = await self._ended(execution_id)
            except TimeoutError:
                raise TimeoutError(f"Execution {execution_id!r} has not ended within {seconds:g} s.") from None
        return self._output(execution_id, ending, codec)

    async def _ended(self, execution_id: str) -> Ending:
        while True:
            # The worker in this process tells the ending itself; of others we only hear that there is one.
            told = await self._endings.wait(execution_id)
            if told is not None:
                return told
            row = await self.row(execution_id)
            if row.status in TERMINAL:
                return ending_of(row)

    def ended(self, execution_id: str, ending: Ending | None) -> None:
        """Told by the worker in this process; None when the execution only left it."""
        self._endings.tell(execution_id, ending)

    def _output(self, execution_id: str, ending: Ending, codec: Codec | None) -> Any:
        match ending.status:
            case "completed":
                return (codec or _UNTYPED).decode(ending.text or "null")
            case "cancelled":
                raise ExecutionCancelledError(execution_id, ending.text)
            case "aborted":
                raise ExecutionAbortedError(execution_id, ending.text)
            case _:
                error = ending.text or "{}"
                raise ExecutionFailedError(execution_id, *error_summary(error)) from self._errors.restore(error)

    async def cancel(self, execution_id: str, reason: str | None, *, undo: bool = False) -> None:
        """See Execution.cancel."""
        if reason is not None:
            check_reason(reason, "reason")
        taken = await self.store.cancel(execution_id, reason=reason, now=self._clock.now(), undo=undo)
        if taken is None:
            raise ExecutionNotFoundError(execution_id)
        if not taken.done and "cancelled" not in (taken.status, taken.ending):
            state = taken.status if taken.ending is None else "failing"
            raise InvalidTransitionError(execution_id, "cancel with undo" if taken.ending else "cancel", state)
        if not taken.done and taken.ending is not None:
            # Its undos run already; nothing was taken from whoever runs them.
            return
        if self.worker is not None:
            if taken.owner == self.worker.worker_id:
                self.worker.taken(execution_id)
            if not taken.cleans_up:
                self.worker.ended(execution_id, bad=True)
            self.worker.look()
        elif taken.done and not taken.cleans_up:
            await self._cancel_orphans()
        self.ended(execution_id, None)
        self.changed()

    async def delete(self, execution_id: str) -> None:
        """See Execution.delete."""
        while (deletion := await self.store.delete(execution_id)) is not None and deletion.orphaning:
            await self._cancel_orphans()
        if deletion is None:
            raise ExecutionNotFoundError(execution_id)
        if deletion.needed_by is not None:
            more = f", and execution {deletion.needed_by!r}, which has not ended, refers to it"
            raise InvalidTransitionError(execution_id, "delete", deletion.status, more)
        if not deletion.done:
            raise InvalidTransitionError(execution_id, "delete", deletion.status, "; cancel it first")
        self.changed()

    async def export(self, execution_id: str) -> dict[str, Any]:
        """See Execution.export."""
        found = await self.reader.everything(execution_id)
        if found is None:
            raise ExecutionNotFoundError(execution_id)
        return document_of(found, self._clock.now())

    async def _cancel_orphans(self) -> None:
        while taken := await self.store.cancel_orphans(now=self._clock.now(), limit=ORPHANS_AT_ONCE):
            for one in taken:
                if self.worker is not None and one.owner == self.worker.worker_id:
                    self.worker.taken(one.execution_id)
                self.ended(one.execution_id, None)

    def changed(self) -> None:
        """Something in this process has changed the database."""
        for event in self._changed:
            event.set()
        self.followers.look()

    def _on_change(self) -> None:
        self._endings.look()
        self.changed()


def _derived_id(scope: Call) -> str:
    """The id of what a body makes next: the same when the body runs again."""
    scope.triggers += 1
    runner = scope.runner
    # created_at: the id may have belonged to another execution, deleted since, which made things of its own.
    return f"t-{digest(runner.id, runner.claimed.created_at, scope.path, runner.claimed.generation, scope.triggers)}"


class _LookAfterwards:
    """Has the worker look at the queue once something stands in it, whether or not the caller still waits."""

    __slots__ = ("_worker",)

    def __init__(self, worker: LocalWorker) -> None:
        self._worker = worker

    def settled(self, transition: Transition, verdict: Verdict) -> None:
        if verdict is None:
            self._worker.look()


class _Deliver:
    """Tells the worker of an event once it is stored, whether or not the sender still waits."""

    __slots__ = ("_worker",)

    def __init__(self, worker: LocalWorker) -> None:
        self._worker = worker

    def settled(self, transition: Transition, verdict: Verdict) -> None:
        if verdict is None and isinstance(transition, EventSent):
            self._worker.event(transition.execution_id, transition.name)


def refusal_of(event: EventSent, verdict: Verdict) -> Exception:
    """The error that says why an event was not accepted."""
    match verdict:
        case Unknown(execution_id):
            return ExecutionNotFoundError(execution_id)
        case Over(execution_id, status):
            return InvalidTransitionError(execution_id, "send an event to", status)
        case Exists(execution_id):
            return InvalidInputError(
                f"The id {event.id!r} belongs to another event that execution {execution_id!r} was sent."
            )
        case Exception():
            return verdict
        case _:
            raise AssertionError(f"{verdict!r} is no answer to an event")


_UNTYPED: Final = codec_for(Any)


def _owned(new: NewExecution, owner: str, deadline_at: int | None) -> NewExecution:
    return NewExecution(
        id=new.id,
        workflow=new.workflow,
        input=new.input,
        created_at=new.created_at,
        owner=owner,
        priority=new.priority,
        version=new.version,
        parent_id=new.parent_id,
        parent_run=new.parent_run,
        parent_path=new.parent_path,
        attached=new.attached,
        retention=new.retention,
        options=new.options,
        timeout=new.timeout,
        deadline_at=deadline_at,
        tags=new.tags,
        request=new.request,
    )


def _check_if_exists(value: str) -> None:
    if value not in ("raise", "return"):
        raise InvalidInputError(f"if_exists must be 'raise' or 'return', got {value!r}.")


def _check_triggered(new: NewExecution, verdict: Verdict, if_exists: str) -> None:
    if isinstance(verdict, Exists):
        if if_exists != "return":
            raise ExecutionExistsError(new.id)
        if not verdict.same:
            raise ExecutionExistsError(new.id, "exists with another workflow or input")
    elif isinstance(verdict, Exception):
        raise verdict


def _check_triggered_many(verdict: Verdict) -> None:
    if isinstance(verdict, Exists):
        raise ExecutionExistsError(verdict.execution_id)
    if isinstance(verdict, Exception):
        raise verdict


def checked_tags(tags: Sequence[str]) -> Sequence[str]:
    """The tags, or an error that names the first one that cannot be."""
    if isinstance(tags, str) or not isinstance(tags, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"tags must be a list of texts, got {tags!r}.")
    for tag in tags:
        if not isinstance(tag, str) or not 0 < len(tag) <= 128 or not tag.isprintable():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"A tag must be text of 1 to 128 printable characters, got {tag!r}.")
    return tags


async def _wait_at_most(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
