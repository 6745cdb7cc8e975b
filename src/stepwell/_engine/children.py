"""Children: an execution that a step starts exactly once, and waiting for the end of an execution."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from stepwell._engine.call import Call, Work
from stepwell._engine.failure import error_summary, record_error
from stepwell._engine.listening import Listener
from stepwell._engine.outcome import Outcome
from stepwell._engine.waits import finished
from stepwell.codec import Codec
from stepwell.errors import (
    ChildFailedError,
    ExecutionExistsError,
    ExecutionNotFoundError,
    PayloadCodecError,
    SerializationError,
)
from stepwell.ids import digest
from stepwell.store.records import HistoryRow
from stepwell.store.transitions import (
    ChildAwaited,
    ChildStarted,
    Exists,
    NewExecution,
    Over,
    StepFinished,
    Unknown,
    Verdict,
)


class Child:
    """The child that a step starts.

    Args:
        workflow: The name of its workflow.
        given_id: The caller's own id for it; None derives one from the step: the same however often the step begins.
        new: Checks the input and makes the record of a trigger.
        preview: The input, for people.
        attached: Whether it is cancelled when its parent ends badly.
    """

    def __init__(
        self, workflow: str, given_id: str | None, new: Callable[[], NewExecution], preview: str, *, attached: bool
    ) -> None:
        self.workflow = workflow
        self.preview = preview
        self._given_id = given_id
        self._new = new
        self._attached = attached

    def is_same(self, other: Child) -> bool:
        """Whether both are the same workflow with the same input, as far as the preview shows."""
        return (self.workflow, self.preview) == (other.workflow, other.preview)

    def id(self, call: Call) -> str:
        """Its id."""
        if self._given_id is not None:
            return self._given_id
        runner = call.runner
        # The id of a parent may have belonged to another one, deleted since, whose children are still there.
        return f"c-{digest(runner.id, runner.claimed.created_at, runner.run, call.path)}"

    def new(self, call: Call) -> NewExecution:
        """Its record; raises InvalidInputError if the workflow cannot take the input."""
        return replace(
            self._new(),
            id=self.id(call),
            request=None,
            parent_id=call.runner.id,
            parent_run=call.runner.run,
            parent_path=call.path,
            attached=self._attached,
        )


class StartWork:
    """`step.start_workflow`: the child's row and the step's are one transaction; nothing waits for the end."""

    kind = "start_workflow"

    def __init__(self, child: Child, handle: Callable[[str], object]) -> None:
        self._child = child
        self._handle = handle

    def value_of(self, call: Call, text: str) -> object:
        return self._handle(text.strip('"'))

    def same_as(self, other: Work) -> bool:
        return isinstance(other, StartWork) and other._child.is_same(self._child)

    async def perform(self, call: Call, record: HistoryRow | None) -> Outcome:
        runner = call.runner
        call.input = self._child.preview
        call.started_at = runner.clock.now()
        child = self._child.new(call)
        started = Outcome("completed", f'"{child.id}"')

        def outcome_of(verdict: Verdict) -> Outcome | None:
            return started if verdict is None else None

        verdict = await runner.answer(_started(call, self.kind, child, waits=False), call, outcome_of)
        if isinstance(verdict, Exists):
            return await _failed(call, self.kind, ExecutionExistsError(child.id))
        runner.host.look()
        return started


class AwaitWork:
    """`step.wait_for_workflow`: the outcome of an execution becomes that of the step."""

    kind = "wait_for_workflow"

    def __init__(self, execution_id: str, codec: Codec) -> None:
        self._execution_id = execution_id
        self._codec = codec

    def value_of(self, call: Call, text: str) -> object:
        return _output(call, text, self._codec)

    def same_as(self, other: Work) -> bool:
        return isinstance(other, AwaitWork) and other._execution_id == self._execution_id

    async def perform(self, call: Call, record: HistoryRow | None) -> Outcome:
        call.input = f'"{self._execution_id}"'
        call.started_at = call.runner.clock.now() if record is None else record.started_at
        if record is not None:
            call.runner.idle_again(None, call.path, "listening")
        return await _wait_for_end(call, self.kind, self._execution_id)


class ExecuteWork:
    """`step.execute_workflow`: start a child and wait for it, as one step."""

    kind = "execute_workflow"

    def __init__(self, child: Child, codec: Codec) -> None:
        self._child = child
        self._codec = codec

    def value_of(self, call: Call, text: str) -> object:
        return _output(call, text, self._codec)

    def same_as(self, other: Work) -> bool:
        return isinstance(other, ExecuteWork) and other._child.is_same(self._child)

    async def perform(self, call: Call, record: HistoryRow | None) -> Outcome:
        runner = call.runner
        call.input = self._child.preview
        if record is not None and record.status == "listening":
            call.started_at = record.started_at
            runner.idle_again(None, call.path, "listening")
            return await _wait_for_end(call, self.kind, self._child.id(call))
        call.started_at = runner.clock.now()
        child = self._child.new(call)
        started = _started(call, self.kind, child, waits=True)
        return await _wait_for_end(call, self.kind, child.id, started)


async def _wait_for_end(call: Call, kind: str, execution_id: str, started: ChildStarted | None = None) -> Outcome:
    """Wait until the execution has ended, after having started it perhaps, and record its outcome as that of the step."""
    runner = call.runner
    verdict: Verdict = None
    listener = Listener((call.started_at, call.seq))
    runner.host.arrivals.expect_end(execution_id, listener.hear)
    try:
        if started is not None:
            verdict = await runner.answer(started, call, _no_outcome)
            if isinstance(verdict, Exists):
                return await _failed(call, kind, ExecutionExistsError(execution_id))
            runner.host.look()
            if not isinstance(verdict, Over):
                await listener.wait(runner, call, None)
        while not isinstance(verdict, Over):
            listener.heard = False
            verdict = await runner.answer(
                ChildAwaited(
                    runner.id,
                    runner.epoch,
                    runner.run,
                    call.path,
                    call.seq,
                    kind,
                    call.input,
                    call.started_at,
                    execution_id,
                    runner.is_idle(),
                ),
                call,
                _no_outcome,
            )
            if isinstance(verdict, Unknown):
                return await _failed(call, kind, ExecutionNotFoundError(execution_id))
            if not isinstance(verdict, Over):
                await listener.wait(runner, call, None)
    finally:
        runner.host.arrivals.forget_end(execution_id, listener.hear)
    runner.resumed()
    if verdict.status != "completed":
        return await _failed(call, kind, _child_error(verdict))
    outcome = Outcome("completed", verdict.text or "null")
    await _record(call, finished(call, kind, outcome.text), outcome)
    return outcome


def _output(call: Call, text: str, codec: Codec) -> object:
    try:
        return codec.decode(text)
    except PayloadCodecError:
        raise
    except SerializationError as error:
        raise call.runner.mismatch(
            call.path, f"recorded an output that does not fit the code any more ({error})"
        ) from error


async def _record(call: Call, transition: StepFinished, outcome: Outcome) -> None:
    await call.runner.answer(transition, call, lambda verdict: outcome if verdict is None else None)


async def _failed(call: Call, kind: str, error: Exception) -> Outcome:
    outcome = Outcome("failed", record_error(error))
    await _record(call, finished(call, kind, None, outcome.text), outcome)
    return outcome


def _child_error(over: Over) -> ChildFailedError:
    if over.status == "failed":
        error_type, message, _ = error_summary(over.text or "{}")
        return ChildFailedError(over.execution_id, over.status, f"{error_type}: {message}")
    return ChildFailedError(over.execution_id, over.status, over.text or "no reason was given")


def _started(call: Call, kind: str, child: NewExecution, *, waits: bool) -> ChildStarted:
    runner = call.runner
    return ChildStarted(
        runner.id,
        runner.epoch,
        runner.run,
        call.path,
        call.seq,
        kind,
        call.input,
        call.started_at,
        child,
        waits,
        waits and runner.is_idle(),
    )


def _no_outcome(_: Verdict) -> None:
    return None
