"""What an error is after it was recorded and restored."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell._engine.failure import ErrorRegistry, error_summary, record_error
from stepwell.errors import (
    ChildFailedError,
    InvalidInputError,
    NonRetryableError,
    StepFailedError,
    StepTimeoutError,
    StepwellError,
)


class ApiError(Exception):
    """Its `__init__` takes other things than `args`, as those of many SDKs do."""

    def __init__(self, message: str, *, response: object, status: int) -> None:
        super().__init__(message)
        self.response = response
        self.status = status


class EagerError(Exception):
    made = 0

    def __init__(self, *args: object) -> None:
        EagerError.made += 1
        super().__init__(*args)


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class HandleError(Exception):
    """Shows an attribute that JSON does not keep."""

    def __init__(self) -> None:
        self.handle = object()
        super().__init__("lost")

    def __str__(self) -> str:
        return f"lost {self.handle}"


class HostileError(Exception):
    @property
    def args(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise RuntimeError("args")

    def __reduce__(self) -> Any:
        raise RuntimeError("reduce")

    def __str__(self) -> str:
        raise RuntimeError("str")


class MissingFileError(FileNotFoundError):
    pass


@dataclass
class DataError(Exception):
    number: int
    note: str = ""


def raised(function: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - any
        function()
    return caught.value


def restored(error: BaseException) -> Exception:
    return ErrorRegistry().restore(record_error(error))


RESTORABLE: list[Callable[[], BaseException]] = [
    lambda: ValueError(),
    lambda: ValueError("text", 1, None, 1.5, (1, 2), {"a": b"x"}),
    lambda: KeyError("key"),
    lambda: raised(lambda: open("/does/not/exist")),  # noqa: SIM115
    lambda: OSError(2, "No such file", "a", None, "b"),
    lambda: raised(b"\xff".decode),
    lambda: raised(lambda: json.loads("{")),
    lambda: raised(lambda: 1 // 0),
    lambda: raised(lambda: __import__("no_such_module_at_all")),
    lambda: socket.gaierror(-2, "Name or service not known"),
    lambda: sqlite3.IntegrityError("UNIQUE constraint failed"),
    lambda: subprocess.CalledProcessError(1, ["false"], b"out"),
    lambda: TimeoutError("late"),
    lambda: ApiError("refused", response=object(), status=402),
    lambda: MissingFileError(2, "No such file", "name"),
    lambda: DataError(7, "seven"),
    lambda: StepTimeoutError("charge", 30),
    lambda: ChildFailedError("c-1", "failed", "why"),
    lambda: NonRetryableError("stop"),
    lambda: StepFailedError("stripe.CardError", "no", causes=(("a.B", "c"),), bases=("Exception",)),
]


@pytest.mark.parametrize("make", RESTORABLE, ids=lambda make: type(make()).__name__)
def test_a_restored_error_is_of_its_class_and_says_the_same(make: Callable[[], BaseException]) -> None:
    error = make()
    text = record_error(error)

    for again in (restored(error), restored(error), ErrorRegistry().restore(text)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.args == error.args


def test_attributes_that_json_can_say_come_back() -> None:
    again = restored(ApiError("refused", response=object(), status=402))

    assert vars(again) == {"status": 402}


def test_built_in_errors_keep_what_their_constructor_took() -> None:
    missing = restored(FileNotFoundError(2, "No such file", "a.txt"))
    decode = restored(raised(b"a\xff".decode))
    module = restored(raised(lambda: __import__("no_such_module_at_all")))

    assert isinstance(missing, FileNotFoundError)
    assert (missing.errno, missing.filename) == (2, "a.txt")
    assert isinstance(decode, UnicodeDecodeError)
    assert (decode.object, decode.start) == (b"a\xff", 1)
    assert isinstance(module, ModuleNotFoundError)
    assert module.name == "no_such_module_at_all"


def test_errors_of_stepwell_keep_their_values() -> None:
    again = restored(ChildFailedError("c-1", "cancelled", "by hand"))

    assert isinstance(again, ChildFailedError)
    assert (again.execution_id, again.status, again.reason) == ("c-1", "cancelled", "by hand")


def test_the_init_of_a_class_is_not_called() -> None:
    text = record_error(EagerError("x"))
    EagerError.made = 0

    assert isinstance(ErrorRegistry().restore(text), EagerError)
    assert EagerError.made == 0


def test_notes_come_back() -> None:
    error = ValueError("x")
    error.add_note("while charging")

    assert restored(error).__notes__ == ["while charging"]


UNRESTORABLE: list[Callable[[], BaseException]] = [
    lambda: HandleError(),
    lambda: MuteError(),
    lambda: HostileError(),
    lambda: ValueError(object()),
    lambda: ValueError("a\0b"),
    lambda: ValueError("\ud800"),
    lambda: ValueError("x" * 100_000),
    lambda: StopIteration("enough"),
    lambda: StopAsyncIteration(),
    lambda: KeyboardInterrupt(),
    lambda: SystemExit(3),
    lambda: asyncio.CancelledError("x"),
    lambda: ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
    lambda: type("LocalError", (Exception,), {"__module__": "nowhere"})("x"),
]


@pytest.mark.parametrize("make", UNRESTORABLE, ids=lambda make: type(make()).__name__)
def test_an_error_that_cannot_be_rebuilt_is_a_step_failed_error(make: Callable[[], BaseException]) -> None:
    registry, error = ErrorRegistry(), make()
    text = record_error(error)
    text.encode()

    first, second = registry.restore(text), registry.restore(text)

    assert isinstance(first, StepFailedError)
    assert first.is_type(type(error).__name__)
    assert (type(first), str(first), first.args) == (type(second), str(second), second.args)
    assert "\0" not in text
    assert "\\u0000" not in text


def test_the_stand_in_tells_what_is_known_of_the_original() -> None:
    class Base(Exception):  # noqa: N818
        pass

    late = type("LateError", (Base,), {"__module__": "stripe"})
    registry = ErrorRegistry()
    registry_text = ""
    try:
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise late("declined") from cause
    except Base as error:
        registry_text = record_error(error)
    del registry._known["stripe.LateError"]

    again = registry.restore(registry_text)

    assert isinstance(again, StepFailedError)
    assert (again.error_type, again.error_message) == ("stripe.LateError", "declined")
    assert again.causes == (("KeyError", "'the cause'"),)
    assert "raise late" in again.error_traceback
    assert again.is_type("Base")
    assert again.is_type("stripe.LateError")
    assert not again.is_type("KeyError")


def test_a_class_loaded_after_the_registry_is_not_known_unless_given() -> None:
    registry = ErrorRegistry()
    late = type("AfterwardsError", (Exception,), {"__module__": "later"})
    text = record_error(late("x"))

    assert isinstance(registry.restore(text), StepFailedError)
    assert type(ErrorRegistry([late]).restore(text)) is late


def test_of_two_classes_with_one_name_neither_is_taken_unless_given() -> None:
    one = type("TwinError", (Exception,), {"__module__": "twins"})
    other = type("TwinError", (Exception,), {"__module__": "twins"})
    text = record_error(one("x"))

    assert isinstance(ErrorRegistry().restore(text), StepFailedError)
    assert type(ErrorRegistry([other]).restore(text)) is other


@pytest.mark.parametrize("extra", [KeyboardInterrupt, int, "ValueError", None])
def test_only_exception_classes_can_be_given(extra: Any) -> None:
    with pytest.raises(InvalidInputError, match="errors must be Exception classes, got"):
        ErrorRegistry([extra])


def test_causes_are_listed_in_order_and_loops_end() -> None:
    first, second, third = ValueError("1"), KeyError("2"), OSError("3")
    first.__cause__, second.__context__, third.__cause__ = second, third, first
    error = RuntimeError("top", object())
    error.__cause__ = first

    again = restored(error)

    assert isinstance(again, StepFailedError)
    assert again.causes == (("ValueError", "1"), ("KeyError", "'2'"), ("OSError", "3"))


def test_a_suppressed_context_is_no_cause() -> None:
    def fail() -> None:
        try:
            raise KeyError("inner")
        except KeyError:
            raise ValueError(object()) from None

    again = restored(raised(fail))

    assert isinstance(again, StepFailedError)
    assert again.causes == ()


def test_the_members_of_a_group_are_among_its_causes() -> None:
    again = restored(ExceptionGroup("two", [ValueError("a"), KeyError("b")]))

    assert isinstance(again, StepFailedError)
    assert again.causes == (("ValueError", "a"), ("KeyError", "'b'"))


def test_the_cause_of_a_restored_error_shows_where_the_original_was_raised() -> None:
    def charge() -> None:
        raise ValueError("declined")

    again = restored(raised(charge))
    assert "in charge" in str(again.__cause__)

    def workflow() -> None:
        raise again

    recorded_again = record_error(raised(workflow))
    name, message, trace = error_summary(recorded_again)
    assert (name, message) == ("ValueError", "declined")
    assert "in charge" in trace
    assert "in workflow" in trace
    assert json.loads(recorded_again).get("causes") is None


def test_long_tracebacks_are_cut_in_the_middle() -> None:
    def deep(n: int) -> None:
        if n == 0:
            raise ValueError("x" * 50_000)
        deep(n - 1)

    text = record_error(raised(lambda: deep(300)))

    trace = error_summary(text)[2]
    assert trace.startswith("Traceback")
    assert "characters left out" in trace
    assert len(trace) < 17_000
    assert len(text) < 60_000


def test_infinite_recursion_can_be_recorded() -> None:
    def endless() -> None:
        endless()

    error = raised(endless)

    assert type(restored(error)) is RecursionError


@pytest.mark.parametrize("text", ["", "null", "{", "[]", '{"type": 1}', "x" * 50, "[" * 100_000])
def test_a_record_that_cannot_be_read_is_still_an_error(text: str) -> None:
    assert isinstance(ErrorRegistry().restore(text), StepFailedError)
    assert error_summary(text)[0] == "unknown"


def test_a_forged_record_imports_and_calls_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    registry = ErrorRegistry()

    for name in ["trap_module.Error", "os.system", "builtins.eval", "subprocess.Popen", "builtins.KeyboardInterrupt"]:
        forged = json.dumps({"type": name, "message": "x", "args": ["echo"], "state": {"a": 1}})
        assert isinstance(registry.restore(forged), StepFailedError)
    assert "trap_module" not in sys.modules


def test_all_errors_of_stepwell_are_restored() -> None:
    samples: dict[str, object] = {"seconds": 1.5, "crashes": 5, "found": 1, "needed": 2, "exit_code": -9}
    for cls in all_subclasses(StepwellError):
        if not cls.__module__.startswith("stepwell"):
            continue
        make: Any = cls
        names = ["message"] if cls.__init__ is Exception.__init__ else inspect.getfullargspec(cls.__init__).args[1:]
        error = make(*(samples.get(name, f"<{name}>") for name in names))
        again = restored(error)
        assert (type(again), str(again), vars(again)) == (cls, str(error), vars(error))


def all_subclasses(cls: type[StepwellError]) -> set[type[StepwellError]]:
    return {cls}.union(*(all_subclasses(sub) for sub in cls.__subclasses__()))


PLAIN = st.none() | st.booleans() | st.integers() | st.text() | st.floats() | st.binary() | st.decimals()


@given(st.lists(PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.text(), PLAIN, max_size=3), max_size=4))
def test_any_arguments_end_in_the_same_error_or_a_stand_in(args: list[Any]) -> None:
    error = ApiError.__new__(ApiError, *args)
    error.args = tuple(args)
    text = record_error(error)

    again = ErrorRegistry().restore(text)

    assert isinstance(again, (ApiError, StepFailedError))
    if isinstance(again, ApiError):
        assert str(again) == str(error)
        assert repr(again) == repr(error)
    text.encode()
