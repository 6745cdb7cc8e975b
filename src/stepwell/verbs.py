"""The work of the verbs that listen and that start other workflows; the same for both kinds of step."""

from __future__ import annotations

from typing import Any

from stepwell._engine.call import Call
from stepwell._engine.children import AwaitWork, Child, ExecuteWork, StartWork
from stepwell._engine.listening import ListenWork
from stepwell.codec import NO_ANNOTATION, codec_for, codec_of_option, preview
from stepwell.duration import Duration
from stepwell.duration import to_us as duration_us
from stepwell.errors import InvalidInputError, WorkflowCodeError
from stepwell.execution import Execution
from stepwell.ids import check_event_name, check_id, quote_step_name
from stepwell.workflow import Workflow


def listen_work(name: str, event: str | None, timeout: Duration | None, returns: object) -> ListenWork:
    """The work of `listen`."""
    quote_step_name(name)
    wanted = name if event is None else check_event_name(event)
    length = None if timeout is None else duration_us(timeout, what="timeout", minimum=0)
    codec = codec_of_option(NO_ANNOTATION if returns is None else returns)
    return ListenWork(wanted, length, codec, preview((wanted,)))


def execute_work(scope: Call, workflow: Workflow[Any, Any], input: object, id: str | None) -> ExecuteWork:
    """The work of `execute_workflow`."""
    return ExecuteWork(
        _child(scope, "step.execute_workflow", workflow, input, id, attached=True), workflow.output_codec
    )


def start_work(
    scope: Call, workflow: Workflow[Any, Any], input: object, id: str | None, *, detached: bool
) -> StartWork:
    """The work of `start_workflow`."""
    child = _child(scope, "step.start_workflow", workflow, input, id, attached=not detached)
    return StartWork(child, workflow.get_execution)


def await_work(scope: Call, target: Execution[Any] | str) -> AwaitWork:
    """The work of `wait_for_workflow`."""
    if isinstance(target, Execution):
        execution_id, codec = target.id, target.output_codec
    else:
        execution_id, codec = check_id(target, "wait_for_workflow needs an execution or its id; the id"), None
    if execution_id == scope.runner.id:
        raise WorkflowCodeError(f"Execution {execution_id!r} cannot wait for itself: it would never end.")
    return AwaitWork(execution_id, codec or codec_for(Any))


def _child(
    scope: Call, what: str, workflow: Workflow[Any, Any], input: object, id: str | None, *, attached: bool
) -> Child:
    if not isinstance(workflow, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise TypeError(f"{what} needs a workflow as its second argument, got {workflow!r}.")
    if id is not None and check_id(id) == scope.runner.id:
        raise InvalidInputError(f"A child needs an id of its own; {id!r} is that of its parent.")
    here, there = scope.runner.host.database, workflow.app.client.store
    if here is not there and (here.url != there.url or here.url == "sqlite://"):
        raise WorkflowCodeError(
            f"{what} starts children in the database of their parent ({here.url}); workflow {workflow.name!r} belongs to {there.url}. Trigger it in a step body instead."
        )
    return Child(workflow.name, id, lambda: workflow.new_execution(input), preview((input,)), attached=attached)
