"""stepwell: durable workflows for Python.

Write an ordinary function, put each side effect into a named step, and stepwell makes sure that it reaches its end.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stepwell import errors
    from stepwell.app import (
        App,
    )
    from stepwell.errors import (
        ChildFailedError,
        ConfigError,
        CrashLoopError,
        EventTimeoutError,
        ExecutionAbortedError,
        ExecutionCancelledError,
        ExecutionExistsError,
        ExecutionFailedError,
        ExecutionNotFoundError,
        ExecutionTimeoutError,
        InvalidInputError,
        InvalidTransitionError,
        NonRetryableError,
        NoStepContextError,
        PayloadCodecError,
        ProcessDiedError,
        ReplayMismatchError,
        SchemaVersionError,
        SecretKeyError,
        SerializationError,
        StepFailedError,
        StepTimeoutError,
        StepwellError,
        StoreUnavailableError,
        WorkflowCodeError,
    )
    from stepwell.execution import (
        AttemptInfo,
        ErrorInfo,
        Execution,
        ExecutionInfo,
        ExecutionList,
        RunInfo,
        StepInfo,
    )
    from stepwell.retry import (
        RetryPolicy,
    )
    from stepwell.secret import (
        Secret,
    )
    from stepwell.step import (
        Step,
        SyncStep,
        current_step,
    )
    from stepwell.streams import (
        StreamItem,
    )
    from stepwell.types import (
        PayloadCodec,
        Status,
        StepStatus,
    )
    from stepwell.workflow import (
        Workflow,
    )

__all__ = [
    "App",
    "AttemptInfo",
    "ChildFailedError",
    "ConfigError",
    "CrashLoopError",
    "ErrorInfo",
    "EventTimeoutError",
    "Execution",
    "ExecutionAbortedError",
    "ExecutionCancelledError",
    "ExecutionExistsError",
    "ExecutionFailedError",
    "ExecutionInfo",
    "ExecutionList",
    "ExecutionNotFoundError",
    "ExecutionTimeoutError",
    "InvalidInputError",
    "InvalidTransitionError",
    "NoStepContextError",
    "NonRetryableError",
    "PayloadCodec",
    "PayloadCodecError",
    "ProcessDiedError",
    "ReplayMismatchError",
    "RetryPolicy",
    "RunInfo",
    "SchemaVersionError",
    "Secret",
    "SecretKeyError",
    "SerializationError",
    "Status",
    "Step",
    "StepFailedError",
    "StepInfo",
    "StepStatus",
    "StepTimeoutError",
    "StepwellError",
    "StoreUnavailableError",
    "StreamItem",
    "SyncStep",
    "Workflow",
    "WorkflowCodeError",
    "current_step",
    "errors",
]

_MODULES: Final = {
    "stepwell.app": ("App",),
    "stepwell.execution": (
        "AttemptInfo",
        "ErrorInfo",
        "Execution",
        "ExecutionInfo",
        "ExecutionList",
        "RunInfo",
        "StepInfo",
    ),
    "stepwell.retry": ("RetryPolicy",),
    "stepwell.secret": ("Secret",),
    "stepwell.step": ("Step", "SyncStep", "current_step"),
    "stepwell.streams": ("StreamItem",),
    "stepwell.types": ("PayloadCodec", "Status", "StepStatus"),
    "stepwell.workflow": ("Workflow",),
}
_HOMES: Final = {name: module for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:  # a type checker would take any name for existing

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first asked for: the command line starts without loading the engine."""
        if name == "errors":
            return import_module("stepwell.errors")
        if name not in __all__:
            raise AttributeError(f"module 'stepwell' has no attribute {name!r}")
        value = getattr(import_module(_HOMES.get(name, "stepwell.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
