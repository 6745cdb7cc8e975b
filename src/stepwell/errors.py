"""Every error that stepwell raises on purpose.

    StepwellError
    ├─ WorkflowCodeError            a call from a place where it cannot work
    │  ├─ NoStepContextError        a step call outside workflow code
    │  └─ ReplayMismatchError       the code no longer fits what was recorded
    ├─ StepFailedError              a recorded failure that cannot be rebuilt as its own class
    ├─ NonRetryableError            raise it in a body: no further attempt
    ├─ SerializationError           a value that JSON and its type cannot bring back
    │  └─ PayloadCodecError         what the codec of the app cannot store or read
    │     └─ SecretKeyError         a secret that the keys at hand cannot store or read
    ├─ InvalidInputError            refused where it enters (also a ValueError)
    ├─ EventTimeoutError, StepTimeoutError     (also TimeoutError)
    ├─ ProcessDiedError             the process of a body with executor="process" ended by itself
    ├─ ExecutionTimeoutError        an execution passed its own timeout
    ├─ ChildFailedError             a child workflow did not complete
    ├─ ExecutionFailedError, ExecutionCancelledError, ExecutionAbortedError
    ├─ ExecutionExistsError, ExecutionNotFoundError, InvalidTransitionError
    ├─ CrashLoopError               the process died too often while running this execution
    └─ ConfigError, SchemaVersionError, StoreUnavailableError

Errors take values and build their sentence; the values stay readable as attributes, and `code` is stable: the HTTP API
and the CLI repeat it.
"""

from __future__ import annotations

import signal
from typing import Any, ClassVar, Self


class StepwellError(Exception):
    """Root of all errors that stepwell raises on purpose."""

    code: ClassVar[str] = "stepwell_error"

    def __reduce__(self) -> tuple[Any, ...]:
        # Constructors take values, not the finished sentence, so the default (call the class with args) would not work.
        return _rebuild, (type(self), self.args, self.__dict__)

    @classmethod
    def rebuilt(cls, args: tuple[Any, ...], state: dict[str, Any]) -> Self:
        """Make the error again from its `args` and attributes without running `__init__`."""
        error = cls.__new__(cls, *args)
        error.args = args
        error.__dict__.update(state)
        return error


def _rebuild(cls: type[StepwellError], args: tuple[Any, ...], state: dict[str, Any]) -> StepwellError:
    return cls.rebuilt(args, state)


class WorkflowCodeError(StepwellError):
    """A call was made from a place where it cannot work; the message names the right one."""

    code = "workflow_code"


class NoStepContextError(WorkflowCodeError):
    """A step was called where no workflow is running, or from a thread that does not carry its context."""

    code = "no_step_context"

    def __init__(self, call: str) -> None:
        super().__init__(
            f"{call} was called outside a running workflow. Call it from workflow code or a step body; in a thread of your own, wrap the function with step.carry(fn) first."
        )
        self.call = call


class ReplayMismatchError(WorkflowCodeError):
    """The code asks for something else than what was recorded at this path.

    No body runs; the execution goes back to the queue, so that a worker with the older code can continue it.
    """

    code = "replay_mismatch"

    def __init__(self, execution_id: str, path: str, problem: str) -> None:
        super().__init__(
            f"Step {path!r} of execution {execution_id!r} {problem}. Give the new call a name of its own, or run the version of the code that recorded it."
        )
        self.execution_id = execution_id
        self.path = path
        self.problem = problem


class StepFailedError(StepwellError):
    """A recorded failure whose own exception class cannot be rebuilt safely.

    `error_type` is the dotted name of the original class, `bases` the names of its ancestors, `error_message` its text,
    `error_traceback` the formatted traceback of the last attempt, `causes` the chain below it as `(type, message)` pairs.
    """

    code = "step_failed"

    def __init__(
        self,
        error_type: str,
        error_message: str,
        *,
        error_traceback: str = "",
        causes: tuple[tuple[str, str], ...] = (),
        bases: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{error_type}: {error_message}" if error_message else error_type)
        self.error_type = error_type
        self.error_message = error_message
        self.error_traceback = error_traceback
        self.causes = causes
        self.bases = bases

    def is_type(self, name: str) -> bool:
        """Tell whether the original error was of the class called `name`, dotted (`"stripe.CardError"`) or bare, or a subclass."""
        return any(known == name or known.rpartition(".")[2] == name for known in (self.error_type, *self.bases))


class NonRetryableError(StepwellError):
    """Raise this (or a subclass) in a step body to fail the step without further attempts."""

    code = "non_retryable"


class SerializationError(StepwellError):
    """A value cannot be stored, or cannot be brought back as what it was."""

    code = "serialization"


class PayloadCodecError(SerializationError):
    """A value cannot be stored, or a stored one not read, with the `App(codec=…)` that this process has.

    What is stored is not lost: an execution that cannot be read goes back to the queue, for a worker that can.
    """

    code = "payload_codec"


class SecretKeyError(PayloadCodecError):
    """A secret cannot be stored, or a stored one not read, with the keys that this process has."""

    code = "secret_key"


class InvalidInputError(StepwellError, ValueError):
    """A value was refused where it entered; nothing was written."""

    code = "invalid_input"


class EventTimeoutError(StepwellError, TimeoutError):
    """No event arrived in the time that `step.listen` was given."""

    code = "event_timeout"

    def __init__(self, path: str, event: str, seconds: float) -> None:
        super().__init__(f"No event {event!r} arrived for step {path!r} within {seconds:g} s.")
        self.path = path
        self.event = event
        self.seconds = seconds


class StepTimeoutError(StepwellError, TimeoutError):
    """An attempt of a step, or a `step.within` block, took longer than its timeout."""

    code = "step_timeout"

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__(f"Step {path!r} did not end within {seconds:g} s.")
        self.path = path
        self.seconds = seconds


class ProcessDiedError(StepwellError):
    """The process in which an attempt of a step ran has died: it crashed, exited, or was killed from outside.

    `exit_code` is what it exited with, or the negative number of the signal that ended it.
    """

    code = "process_died"

    def __init__(self, path: str, exit_code: int) -> None:
        super().__init__(f"The process of step {path!r} {_ending(exit_code)} before the body returned.")
        self.path = path
        self.exit_code = exit_code


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    if exit_code == -signal.SIGKILL:
        return "was killed (SIGKILL, perhaps by the system for want of memory)"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"


class ExecutionTimeoutError(StepwellError):
    """An execution did not end within its own timeout, counted from its first start."""

    code = "execution_timeout"

    def __init__(self, execution_id: str, seconds: float) -> None:
        super().__init__(f"Execution {execution_id!r} did not end within its timeout of {seconds:g} s.")
        self.execution_id = execution_id
        self.seconds = seconds


class ChildFailedError(StepwellError):
    """A child workflow ended without completing."""

    code = "child_failed"

    def __init__(self, execution_id: str, status: str, reason: str) -> None:
        super().__init__(f"Child execution {execution_id!r} ended as {status}: {reason}")
        self.execution_id = execution_id
        self.status = status
        self.reason = reason


class ExecutionExistsError(StepwellError):
    """The id is taken by an execution that is not the same request."""

    code = "execution_exists"

    def __init__(self, execution_id: str, problem: str = "already exists") -> None:
        super().__init__(
            f"Execution {execution_id!r} {problem}. Choose another id, or pass if_exists='return' with the same workflow and input."
        )
        self.execution_id = execution_id


class ExecutionNotFoundError(StepwellError):
    """No execution has this id in this database."""

    code = "execution_not_found"

    def __init__(self, execution_id: str, message: str | None = None) -> None:
        super().__init__(message or f"Execution {execution_id!r} does not exist in this database.")
        self.execution_id = execution_id


class ExecutionFailedError(StepwellError):
    """The execution failed; `error_type`, `error_message` and `error_traceback` tell of what, `__cause__` is the error rebuilt."""

    code = "execution_failed"

    def __init__(self, execution_id: str, error_type: str, error_message: str, error_traceback: str = "") -> None:
        super().__init__(f"Execution {execution_id!r} failed with {error_type}: {error_message}")
        self.execution_id = execution_id
        self.error_type = error_type
        self.error_message = error_message
        self.error_traceback = error_traceback


class ExecutionCancelledError(StepwellError):
    """The execution was cancelled."""

    code = "execution_cancelled"

    def __init__(self, execution_id: str, reason: str | None = None) -> None:
        super().__init__(f"Execution {execution_id!r} was cancelled{f': {reason}' if reason else ''}.")
        self.execution_id = execution_id
        self.reason = reason


class ExecutionAbortedError(StepwellError):
    """The execution was aborted by its own code."""

    code = "execution_aborted"

    def __init__(self, execution_id: str, reason: str | None = None) -> None:
        super().__init__(f"Execution {execution_id!r} was aborted{f': {reason}' if reason else ''}.")
        self.execution_id = execution_id
        self.reason = reason


class InvalidTransitionError(StepwellError):
    """The execution is in a state from which this cannot be done."""

    code = "invalid_transition"

    def __init__(self, execution_id: str, action: str, status: str, more: str = "") -> None:
        super().__init__(f"Cannot {action} execution {execution_id!r}: it is {status}{more}.")
        self.execution_id = execution_id
        self.action = action
        self.status = status


class CrashLoopError(StepwellError):
    """The process died too often in a row while it ran this execution."""

    code = "crash_loop"

    def __init__(self, execution_id: str, crashes: int) -> None:
        super().__init__(
            f"Execution {execution_id!r} was running when its process died, {crashes} times in a row without recording a step. It was stopped to protect the others."
        )
        self.execution_id = execution_id
        self.crashes = crashes


class ConfigError(StepwellError):
    """The configuration cannot be used; the message lists every mistake with its place."""

    code = "config"


class SchemaVersionError(StepwellError):
    """The database was written by a newer release, or must be migrated first."""

    code = "schema_version"

    def __init__(self, database: str, found: int, needed: int) -> None:
        advice = "Upgrade stepwell." if found > needed else "Run `stepwell db migrate`."
        super().__init__(f"The schema in {database!r} is version {found}; this release needs {needed}. {advice}")
        self.database = database
        self.found = found
        self.needed = needed


class StoreUnavailableError(StepwellError):
    """The database cannot be opened, read or written."""

    code = "store_unavailable"

    def __init__(self, database: str, problem: str) -> None:
        super().__init__(f"The database {database!r} cannot be used: {problem}.")
        self.database = database
        self.problem = problem
