"""What people do to an execution besides cancelling it: look first, then one transaction, then tell who is near."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any, Final

from stepwell.codec import codec_for
from stepwell.errors import ExecutionNotFoundError, InvalidInputError, InvalidTransitionError, SerializationError
from stepwell.types import TERMINAL

if TYPE_CHECKING:
    from stepwell.client import Client
    from stepwell.store.records import NewRun, Standing, Taken

_RETRIED: Final = ("failed", "cancelled", "aborted")
_UNTYPED: Final = codec_for(Any)


async def pause(client: Client, execution_id: str) -> None:
    """See Execution.pause."""
    taken = _found(execution_id, await client.store.pause(execution_id))
    if not taken.done and taken.status != "paused":
        raise InvalidTransitionError(execution_id, "pause", taken.status)
    _signalled(client, taken)


async def resume(client: Client, execution_id: str) -> None:
    """See Execution.resume."""
    standing = await _standing(client, execution_id)
    if standing.status != "paused":
        raise InvalidTransitionError(execution_id, "resume", standing.status)
    taken = _found(execution_id, await client.store.resume(execution_id, now=client.now()))
    if not taken.done and taken.status in TERMINAL:
        raise InvalidTransitionError(execution_id, "resume", taken.status)
    _signalled(client, taken)


async def wake(client: Client, execution_id: str) -> None:
    """See Execution.wake."""
    standing = await _standing(client, execution_id)
    done = False
    if standing.waits:
        waits, run = standing.waits, standing.run
        taken = _found(execution_id, await client.store.wake(execution_id, run=run, waits=waits, now=client.now()))
        done = taken.done
        _signalled(client, taken)
    if not done:
        raise InvalidTransitionError(execution_id, "wake", f"{standing.status}, and no sleep or backoff is open")


async def restart(client: Client, execution_id: str, from_step: str | None, input: object) -> None:
    """See Execution.restart."""
    standing = await _standing(client, execution_id)
    begun = await client.store.restart(
        execution_id,
        expected_run=standing.run,
        request=client.token(),
        from_step=_checked_path(from_step),
        input=_input_text(client, standing.workflow, input),
        now=client.now(),
    )
    await _begun(client, execution_id, "restart", standing, begun, from_step)


async def retry(client: Client, execution_id: str) -> None:
    """See Execution.retry."""
    standing = await _standing(client, execution_id)
    if standing.status not in _RETRIED:
        raise InvalidTransitionError(execution_id, "retry", standing.status)
    begun = await client.store.retry(execution_id, expected_run=standing.run, request=client.token(), now=client.now())
    await _begun(client, execution_id, "retry", standing, begun, None)


async def fork(client: Client, execution_id: str, from_step: str | None, input: object) -> str:
    """See Execution.fork; the id of the new execution."""
    standing = await _standing(client, execution_id)
    begun = await client.store.fork(
        execution_id,
        new_id=client.new_id(),
        from_step=_checked_path(from_step),
        input=_input_text(client, standing.workflow, input),
        now=client.now(),
    )
    return (await _begun(client, execution_id, "fork", standing, begun, from_step)).execution_id


async def _standing(client: Client, execution_id: str) -> Standing:
    standing = await client.store.standing(execution_id)
    if standing is None:
        raise ExecutionNotFoundError(execution_id)
    return standing


def _found(execution_id: str, taken: Taken | None) -> Taken:
    if taken is None:
        raise ExecutionNotFoundError(execution_id)
    return taken


def _signalled(client: Client, taken: Taken) -> None:
    if taken.done and client.worker is not None:
        client.worker.signalled(taken.execution_id)
    client.changed()


async def _begun(
    client: Client,
    execution_id: str,
    action: str,
    standing: Standing,
    begun: NewRun | None,
    from_step: str | None,
) -> NewRun:
    """Tell of the new run, or say why there is none."""
    if begun is None:
        raise ExecutionNotFoundError(execution_id)
    if begun.unknown_step:
        paths = [step.path for step in await client.reader.steps(execution_id, standing.run)]
        raise InvalidInputError(
            f"Cannot {action} execution {execution_id!r}: no step {from_step!r} is recorded in its run {standing.run}.{_hint(from_step or '', paths)}"
        )
    if not begun.done:
        moved = begun.run != standing.run
        problem = f"in run {begun.run} by now, which began at the same time" if moved else begun.status
        raise InvalidTransitionError(execution_id, action, problem)
    if client.worker is not None:
        client.worker.begun_anew(begun.execution_id, begun.run)
    client.ended(execution_id, None)
    client.changed()
    return begun


def _hint(path: str, paths: list[str]) -> str:
    close = difflib.get_close_matches(path, paths, n=3) or [each for each in paths if each.endswith(f"/{path}")][:3]
    if close:
        return f" Did you mean {' or '.join(map(repr, close))}?"
    if not paths:
        return " Nothing is recorded in it."
    return f" Recorded are {', '.join(map(repr, paths[:10]))}{', …' if len(paths) > 10 else ''}."


def _checked_path(path: object) -> str | None:
    if path is not None and (not isinstance(path, str) or not path):
        raise InvalidInputError(
            f"from_step must be the path of a step, such as 'charge' or 'parent/child', got {path!r}."
        )
    return path


def _input_text(client: Client, workflow: str, input: object) -> str | None:
    """The new input as JSON text, checked by the workflow if its code is here; None keeps the old one."""
    if input is ...:
        return None
    definition = client.definitions.get(workflow)
    if definition is not None:
        return client.input_text(definition, input)
    try:
        json.dumps(input, allow_nan=False)
        return _UNTYPED.encode(input)
    except (TypeError, ValueError, RecursionError, SerializationError) as error:
        raise InvalidInputError(
            f"The code of workflow {workflow!r} is not in this program, so its input must be JSON values: {error}"
        ) from error
