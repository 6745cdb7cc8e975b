"""stepwell: durable workflows for Python.

Write an ordinary function, put each side effect into a named step, and stepwell makes sure that it reaches its end.
"""

from stepwell import errors
from stepwell.app import App
from stepwell.execution import AttemptInfo, ErrorInfo, Execution, ExecutionInfo, ExecutionList, StepInfo
from stepwell.retry import RetryPolicy
from stepwell.step import Step, SyncStep, current_step
from stepwell.types import Status, StepStatus
from stepwell.workflow import Workflow

__all__ = [
    "App",
    "AttemptInfo",
    "ErrorInfo",
    "Execution",
    "ExecutionInfo",
    "ExecutionList",
    "RetryPolicy",
    "Status",
    "Step",
    "StepInfo",
    "StepStatus",
    "SyncStep",
    "Workflow",
    "current_step",
    "errors",
]
