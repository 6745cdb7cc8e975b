"""Every error: a stable code of its own, a message with its values, attributes that survive pickling."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from stepwell import errors
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

CODES = {
    StepwellError: "stepwell_error",
    WorkflowCodeError: "workflow_code",
    NoStepContextError: "no_step_context",
    ReplayMismatchError: "replay_mismatch",
    StepFailedError: "step_failed",
    NonRetryableError: "non_retryable",
    SerializationError: "serialization",
    PayloadCodecError: "payload_codec",
    SecretKeyError: "secret_key",
    InvalidInputError: "invalid_input",
    EventTimeoutError: "event_timeout",
    StepTimeoutError: "step_timeout",
    ProcessDiedError: "process_died",
    ExecutionTimeoutError: "execution_timeout",
    ChildFailedError: "child_failed",
    ExecutionExistsError: "execution_exists",
    ExecutionNotFoundError: "execution_not_found",
    ExecutionFailedError: "execution_failed",
    ExecutionCancelledError: "execution_cancelled",
    ExecutionAbortedError: "execution_aborted",
    InvalidTransitionError: "invalid_transition",
    CrashLoopError: "crash_loop",
    ConfigError: "config",
    SchemaVersionError: "schema_version",
    StoreUnavailableError: "store_unavailable",
}
"""The HTTP API, the command line and users' programs rely on these: a code never changes."""

EXAMPLES: list[tuple[StepwellError, list[str]]] = [
    (StepwellError("a sentence"), ["a sentence"]),
    (WorkflowCodeError("a sentence"), ["a sentence"]),
    (NoStepContextError("step.run"), ["step.run", "step.carry(fn)"]),
    (ReplayMismatchError("A-1", "charge", "was a sleep"), ["'A-1'", "'charge'", "was a sleep"]),
    (
        StepFailedError(
            "stripe.CardError",
            "declined",
            error_traceback="…",
            causes=(("OSError", "x"),),
            bases=("stripe.StripeError",),
        ),
        ["stripe.CardError: declined"],
    ),
    (NonRetryableError("a sentence"), ["a sentence"]),
    (SerializationError("a sentence"), ["a sentence"]),
    (PayloadCodecError("a sentence"), ["a sentence"]),
    (SecretKeyError("a sentence"), ["a sentence"]),
    (InvalidInputError("a sentence"), ["a sentence"]),
    (EventTimeoutError("wait/paid", "payment", 1.5), ["'wait/paid'", "'payment'", "1.5 s"]),
    (StepTimeoutError("charge", 30), ["'charge'", "30 s"]),
    (ProcessDiedError("charge", -9), ["'charge'", "SIGKILL", "memory"]),
    (ProcessDiedError("charge", -11), ["'charge'", "SIGSEGV"]),
    (ProcessDiedError("charge", -60), ["'charge'", "signal 60"]),
    (ProcessDiedError("charge", 3), ["'charge'", "code 3"]),
    (ExecutionTimeoutError("A-1", 60), ["'A-1'", "60 s"]),
    (ChildFailedError("c-1", "failed", "declined"), ["'c-1'", "failed", "declined"]),
    (ExecutionExistsError("A-1"), ["'A-1'", "already exists", "if_exists='return'"]),
    (ExecutionExistsError("A-1", "exists with another input"), ["'A-1'", "exists with another input"]),
    (ExecutionNotFoundError("A-1"), ["'A-1'"]),
    (ExecutionFailedError("A-1", "ValueError", "no", "Traceback"), ["'A-1'", "ValueError", "no"]),
    (ExecutionCancelledError("A-1", "customer called"), ["'A-1'", "customer called"]),
    (ExecutionCancelledError("A-1"), ["'A-1'"]),
    (ExecutionAbortedError("A-1", "customer called"), ["'A-1'", "customer called"]),
    (InvalidTransitionError("A-1", "cancel", "completed"), ["cancel", "'A-1'", "completed"]),
    (CrashLoopError("A-1", 5), ["'A-1'", "5 times"]),
    (ConfigError("a sentence"), ["a sentence"]),
    (SchemaVersionError("app.db", 3, 5), ["'app.db'", "version 3", "needs 5", "stepwell db migrate"]),
    (SchemaVersionError("app.db", 7, 5), ["'app.db'", "version 7", "needs 5", "Upgrade stepwell"]),
    (StoreUnavailableError("app.db", "disk I/O error"), ["'app.db'", "disk I/O error"]),
]


def test_each_error_has_its_code_and_none_is_missing_here() -> None:
    defined = {cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, StepwellError)}

    assert {cls: cls.code for cls in defined} == CODES
    assert len(set(CODES.values())) == len(CODES)


def test_there_is_an_example_of_each_error() -> None:
    assert {type(error) for error, _ in EXAMPLES} == set(CODES)


@pytest.mark.parametrize(("error", "_"), EXAMPLES)
def test_all_errors_have_one_root_and_end_in_error(error: StepwellError, _: list[str]) -> None:
    assert isinstance(error, StepwellError)
    assert isinstance(error, Exception)
    assert type(error).__name__.endswith("Error")
    assert type(error).__doc__


@pytest.mark.parametrize(("error", "values"), EXAMPLES)
def test_the_message_has_the_values(error: StepwellError, values: list[str]) -> None:
    message = str(error)

    assert [value for value in values if value not in message] == []
    assert "!" not in message
    assert "None" not in message


@pytest.mark.parametrize(("error", "_"), EXAMPLES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_survive_pickling(error: StepwellError, _: list[str], protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))

    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize(("error", "_"), EXAMPLES)
def test_errors_survive_copying(error: StepwellError, _: list[str]) -> None:
    error.add_note("a note")

    again = copy.copy(error)

    assert (str(again), vars(again)) == (str(error), vars(error))
    assert again.__notes__ == ["a note"]


class CardError(NonRetryableError):
    """A user's own, with a constructor of its own."""

    def __init__(self, card: str, *, amount: int) -> None:
        super().__init__(f"Card {card} cannot pay {amount}")
        self.card = card
        self.amount = amount


def test_subclasses_of_users_survive_pickling() -> None:
    again = pickle.loads(pickle.dumps(CardError("4242", amount=5)))

    assert (type(again), str(again), again.card, again.amount) == (CardError, "Card 4242 cannot pay 5", "4242", 5)


@pytest.mark.parametrize("cls", [EventTimeoutError, StepTimeoutError])
def test_timeouts_are_timeout_errors(cls: type[StepwellError]) -> None:
    assert issubclass(cls, TimeoutError)


def test_the_timeout_of_an_execution_is_not_mistaken_for_a_step_s() -> None:
    assert not issubclass(ExecutionTimeoutError, TimeoutError)


def test_refused_input_is_a_value_error() -> None:
    assert issubclass(InvalidInputError, ValueError)


def test_misplaced_calls_are_workflow_code_errors() -> None:
    assert issubclass(NoStepContextError, WorkflowCodeError)
    assert issubclass(ReplayMismatchError, WorkflowCodeError)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[(name, True) for name in ("stripe.CardError", "CardError", "StripeError", "stripe.StripeError")],
        *[(name, False) for name in ("Error", "card.CardError", "", "stripe")],
    ],
)
def test_a_step_failure_knows_its_type(name: str, expected: bool) -> None:
    error = StepFailedError("stripe.CardError", "declined", bases=("stripe.StripeError", "builtins.Exception"))

    assert error.is_type(name) is expected
