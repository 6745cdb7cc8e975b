"""A workflow as its users hold it: trigger it, look at its executions."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast, overload

from stepwell._engine.call import refuse_in_workflow_code
from stepwell._engine.definition import Definition
from stepwell.client import checked_tags
from stepwell.clock import LAST_US, to_us
from stepwell.codec import Codec
from stepwell.duration import Duration
from stepwell.duration import to_us as duration_us
from stepwell.errors import InvalidInputError
from stepwell.execution import Execution, ExecutionList
from stepwell.ids import check_id
from stepwell.store.records import ExecutionFilter
from stepwell.store.transitions import NewExecution
from stepwell.types import STATUSES, Status

if TYPE_CHECKING:
    from stepwell.app import App

In = TypeVar("In")
Out = TypeVar("Out")
OnError = TypeVar("OnError", bound=Callable[..., Any])

IfExists = Literal["raise", "return"]

_START: Final = "Use step.start_workflow(name, workflow, input), or step.execute_workflow(…) to wait for its output."
MOST_AT_ONCE = 10_000
"""How many executions `trigger_many` takes."""


class Workflow(Generic[In, Out]):
    """A workflow that takes `In` and gives `Out`; made by `@app.workflow`."""

    def __init__(self, app: App, definition: Definition) -> None:
        self._app = app
        self._definition = definition
        self.__doc__ = definition.function.__doc__

    def __repr__(self) -> str:
        return f"<Workflow {self.name!r} of {self._app.name!r}>"

    @property
    def name(self) -> str:
        """The name under which executions are stored."""
        return self._definition.name

    @property
    def app(self) -> App:
        """The app that it belongs to."""
        return self._app

    @property
    def takes_input(self) -> bool:
        """Whether the function takes an input."""
        return self._definition.takes_input

    @property
    def function(self) -> Callable[..., Any]:
        """The decorated function."""
        return self._definition.function

    def on_error(self, handler: OnError) -> OnError:
        """Decorate the function that runs before a failed execution is marked `failed`.

        It takes `(step, error)` or `(step, input, error)` and may run steps. It runs once the failure is recorded,
        outside the execution's timeout; what it raises is logged and changes nothing. Cancelled and aborted executions
        do not call it.
        """
        self._definition.set_on_error(handler)
        return handler

    @property
    def output_codec(self) -> Codec:
        """How its outputs are stored and restored."""
        return self._definition.output_codec

    def new_execution(self, input: In) -> NewExecution:
        """Check an input as `trigger` does and make the record of an execution without writing it; its id is to be set."""
        return self._app.client.new_execution(self._definition, input, id="-")

    def parse_input(self, value: object) -> In:
        """The typed input that a JSON value stands for.

        Raises:
            InvalidInputError: It does not fit the annotation; the message names the field.
        """
        codec = self._definition.input_codec
        return cast("In", codec.decode(codec.validate(value)))

    @overload
    async def trigger(
        self: Workflow[None, Out],
        input: None = None,
        *,
        id: str | None = None,
        if_exists: IfExists = "raise",
        delay: Duration | None = None,
        at: datetime | None = None,
        priority: int = 0,
        tags: Sequence[str] = (),
        timeout: Duration | None = None,
        connection: object = None,
    ) -> Execution[Out]: ...

    @overload
    async def trigger(
        self,
        input: In,
        *,
        id: str | None = None,
        if_exists: IfExists = "raise",
        delay: Duration | None = None,
        at: datetime | None = None,
        priority: int = 0,
        tags: Sequence[str] = (),
        timeout: Duration | None = None,
        connection: object = None,
    ) -> Execution[Out]: ...

    async def trigger(
        self,
        input: Any = None,
        *,
        id: str | None = None,
        if_exists: IfExists = "raise",
        delay: Duration | None = None,
        at: datetime | None = None,
        priority: int = 0,
        tags: Sequence[str] = (),
        timeout: Duration | None = None,
        connection: object = None,
    ) -> Execution[Out]:
        """Start an execution and give its handle; once this returns, the execution cannot be lost.

        The input is checked before anything is written. A worker in this process starts the execution at once if it has
        a free place and nobody waits in the queue; else it is queued. Inside a step body a trigger without `id` gets one
        derived from the step, so that a body that runs again does not start a second execution.

        Args:
            input: What the workflow takes.
            id: Your own id, 1 to 128 of `A-Za-z0-9_.:-`; a time-ordered one is made otherwise.
            if_exists: "return" gives the existing execution if its workflow and input are equal.
            delay: Start after this time at the earliest.
            at: Start at this (aware) time at the earliest.
            priority: Higher ones are started first.
            tags: For finding it again.
            timeout: Longest time from the first start to the end, waiting included.
            connection: Your own open transaction on the same database, a `sqlite3.Connection` or what SQLAlchemy hands out
                on one: the execution is queued if and only if it commits, and until then nobody sees it. The statements run
                in this thread. A connection that begins transactions by itself has one begun.

        Raises:
            InvalidInputError: The input or an option cannot be taken; or `connection` is on another database, commits
                each statement by itself, or belongs to another thread.
            ExecutionExistsError: The id is taken. What else your transaction has written stands.
            StoreUnavailableError: The database cannot be written; or `connection` did not get its lock.
            WorkflowCodeError: Called in workflow code outside a step body.
        """
        new = self._new(input, id=id, delay=delay, at=at, priority=priority, tags=tags, timeout=timeout)
        client = self._app.client
        if connection is not None:
            verdict = client.trigger_with(connection, new, if_exists=if_exists)
            return self.get_execution(await client.triggered(self._definition, new, verdict, if_exists=if_exists))
        return self.get_execution(await client.trigger(self._definition, new, if_exists=if_exists))

    def _new(
        self,
        input: Any,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        priority: int = 0,
        tags: Sequence[str] = (),
        timeout: Duration | None = None,
    ) -> NewExecution:
        refuse_in_workflow_code(f"{self.name}.trigger()", _START)
        return self._app.client.new_execution(
            self._definition,
            input,
            id=None if id is None else check_id(id),
            delay=delay,
            at=None if at is None else _aware("at", at),
            priority=priority,
            tags=tags,
            timeout=timeout,
        )

    async def trigger_many(
        self,
        inputs: Sequence[In],
        *,
        ids: Sequence[str] | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        priority: int = 0,
        tags: Sequence[str] = (),
        timeout: Duration | None = None,
        connection: object = None,
    ) -> list[Execution[Out]]:
        """Start an execution for each input, all or none, in one transaction; at most 10,000.

        Args:
            inputs: One for each execution.
            ids: Your own ids, one for each input.
            delay: As in `trigger`; so are the others.

        Raises:
            InvalidInputError: One of the inputs cannot be taken; the message says which.
            ExecutionExistsError: One of the ids is taken.
        """
        news = self._news(inputs, ids=ids, delay=delay, at=at, priority=priority, tags=tags, timeout=timeout)
        client = self._app.client
        if connection is not None:
            client.trigger_many_with(connection, news)
        else:
            await client.trigger_many(news)
        return [self.get_execution(new.id) for new in news]

    def _news(
        self,
        inputs: Sequence[In],
        *,
        ids: Sequence[str] | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        priority: int = 0,
        tags: Sequence[str] = (),
        timeout: Duration | None = None,
    ) -> list[NewExecution]:
        refuse_in_workflow_code(f"{self.name}.trigger_many()", _START)
        if not isinstance(inputs, Sequence) or isinstance(inputs, str | bytes):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
            raise InvalidInputError(f"trigger_many needs a list of inputs, got {inputs!r}.")
        if len(inputs) > MOST_AT_ONCE:
            raise InvalidInputError(f"trigger_many takes at most {MOST_AT_ONCE:,} inputs, got {len(inputs):,}.")
        if ids is not None and (len(ids) != len(inputs) or len(set(ids)) != len(ids)):
            raise InvalidInputError(
                f"trigger_many needs one id of its own for each input, got {len(set(ids))} different ids for {len(inputs)} inputs."
            )
        client = self._app.client
        moment = None if at is None else _aware("at", at)

        def new(number: int, item: In) -> NewExecution:
            try:
                return client.new_execution(
                    self._definition,
                    item,
                    id=None if ids is None else check_id(ids[number]),
                    delay=delay,
                    at=moment,
                    priority=priority,
                    tags=tags,
                    timeout=timeout,
                )
            except InvalidInputError as error:
                raise InvalidInputError(f"inputs[{number}]: {error}") from error

        return [new(number, item) for number, item in enumerate(inputs)]

    def get_execution(self, id: str) -> Execution[Out]:
        """A handle with this id. Nothing is asked yet: an unknown id shows when the handle is used."""
        return Execution(self._app.client, check_id(id), self._definition.output_codec)

    async def cancel(self, id: str, reason: str | None = None, undo: bool = False) -> None:
        """Cancel one execution; see `Execution.cancel`."""
        refuse_in_workflow_code(f"{self.name}.cancel()", "Move it into a step: step.run('cancel', …).")
        await self.get_execution(id).cancel(reason, undo)

    async def send_event(
        self,
        execution_id: str,
        name: str,
        payload: object = None,
        *,
        id: str | None = None,
        connection: object = None,
    ) -> None:
        """Send an event to one execution; see `Execution.send_event`."""
        await self.get_execution(execution_id).send_event(name, payload, id=id, connection=connection)

    async def list_executions(
        self,
        *,
        status: Status | Sequence[Status] | None = None,
        tags: Sequence[str] = (),
        since: datetime | Duration | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> ExecutionList:
        """A page of this workflow's executions, newest first, without payloads; see `App.list_executions`."""
        return await self._app.list_executions(
            workflow=self.name, status=status, tags=tags, since=since, limit=limit, cursor=cursor
        )

    @overload
    def trigger_sync(self: Workflow[None, Out], input: None = None, **options: Any) -> Execution[Out]: ...

    @overload
    def trigger_sync(self, input: In, **options: Any) -> Execution[Out]: ...

    def trigger_sync(self, input: Any = None, **options: Any) -> Execution[Out]:
        """`trigger` for code without an event loop; with `connection=` it writes in this thread."""
        connection = options.pop("connection", None)
        if connection is None:
            return self._blocking("trigger", lambda: self.trigger(input, **options))
        if_exists = options.pop("if_exists", "raise")

        async def new() -> NewExecution:
            return self._new(input, **options)

        made = self._blocking("trigger", new)
        client = self._app.client
        verdict = client.trigger_with(connection, made, if_exists=if_exists)

        async def triggered() -> str:
            return await client.triggered(self._definition, made, verdict, if_exists=if_exists)

        return self.get_execution(self._blocking("trigger", triggered))

    def trigger_many_sync(self, inputs: Sequence[In], **options: Any) -> list[Execution[Out]]:
        """`trigger_many` for code without an event loop; with `connection=` it writes in this thread."""
        connection = options.pop("connection", None)
        if connection is None:
            return self._blocking("trigger_many", lambda: self.trigger_many(inputs, **options))

        async def news() -> list[NewExecution]:
            return self._news(inputs, **options)

        made: list[NewExecution] = self._blocking("trigger_many", news)
        self._app.client.trigger_many_with(connection, made)
        return [self.get_execution(new.id) for new in made]

    def get_execution_sync(self, id: str) -> Execution[Out]:
        """`get_execution` for code without an event loop: connects if the app is not connected yet."""

        async def get() -> Execution[Out]:
            return self.get_execution(id)

        return self._blocking("get_execution", get)

    def cancel_sync(self, id: str, reason: str | None = None, undo: bool = False) -> None:
        """`cancel` for code without an event loop."""
        self._blocking("cancel", lambda: self.cancel(id, reason, undo))

    def send_event_sync(
        self,
        execution_id: str,
        name: str,
        payload: object = None,
        *,
        id: str | None = None,
        connection: object = None,
    ) -> None:
        """`send_event` for code without an event loop; with `connection=` it writes in this thread."""
        if connection is None:
            self._blocking("send_event", lambda: self.send_event(execution_id, name, payload, id=id))
        else:
            execution = self.get_execution_sync(execution_id)
            execution.send_event_sync(name, payload, id=id, connection=connection)

    def list_executions_sync(self, **options: Any) -> ExecutionList:
        """`list_executions` for code without an event loop."""
        return self._blocking("list_executions", lambda: self.list_executions(**options))

    def _blocking(self, what: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return self._app.portal.call(f"{self.name}.{what}_sync()", make)


def execution_filter(
    clock_now: int,
    *,
    workflow: str | None,
    status: Status | Sequence[Status] | None,
    tags: Sequence[str],
    since: datetime | Duration | None,
    id_prefix: str | None,
    limit: int,
    cursor: str | None,
) -> ExecutionFilter:
    """Check the filters of a list."""
    statuses = (status,) if isinstance(status, str) else tuple(status or ())
    for name in statuses:
        if name not in STATUSES:
            raise InvalidInputError(f"status must be one of {', '.join(STATUSES)}, got {name!r}.")
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 1000:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"limit must be 1 to 1000, got {limit!r}.")
    if isinstance(since, datetime):
        earliest = _aware("since", since)
    elif since is None:
        earliest = None
    else:
        earliest = clock_now - duration_us(since, what="since")
    return ExecutionFilter(
        statuses=statuses,
        workflow=workflow,
        tags=tuple(checked_tags(tags)),
        id_prefix=id_prefix,
        since=earliest,
        limit=limit,
        cursor=cursor,
    )


def _aware(what: str, moment: datetime) -> int:
    if not isinstance(moment, datetime):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise InvalidInputError(f"{what} must be an aware datetime, got {moment!r}.")
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise InvalidInputError(f"{what} must be an aware datetime, got {moment!r} without a time zone.")
    if to_us(moment) > LAST_US:
        raise InvalidInputError(f"{what} must be before the year 10000 in UTC, got {moment!r}.")
    return to_us(moment)
