"""stepwell: durable workflows for Python.

Write an ordinary function, put each side effect into a named step, and stepwell makes sure that it reaches its end.
"""

from stepwell import errors
from stepwell.app import App
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
    NoStepContextError,
    NonRetryableError,
    ReplayMismatchError,
    SchemaVersionError,
    SerializationError,
    StepFailedError,
    StepTimeoutError,
    StepwellError,
    StoreUnavailableError,
    WorkflowCodeError,
)
from stepwell.execution import AttemptInfo, ErrorInfo, Execution, ExecutionInfo, ExecutionList, StepInfo
from stepwell.retry import RetryPolicy
from stepwell.step import Step, SyncStep, current_step
from stepwell.types import Status, StepStatus
from stepwell.workflow import Workflow

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
    "ReplayMismatchError",
    "RetryPolicy",
    "SchemaVersionError",
    "SerializationError",
    "Status",
    "Step",
    "StepFailedError",
    "StepInfo",
    "StepStatus",
    "StepTimeoutError",
    "StepwellError",
    "StoreUnavailableError",
    "SyncStep",
    "Workflow",
    "WorkflowCodeError",
    "current_step",
    "errors",
]
