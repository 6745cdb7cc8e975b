"""A step that failed raises the same thing live and on every replay, and its body does not run again."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from stepwell import App, Execution, Step, StepInfo, SyncStep, current_step
from stepwell.errors import (
    ExecutionFailedError,
    InvalidInputError,
    NonRetryableError,
    SerializationError,
    StepFailedError,
)
from stepwell.testing import sandbox

HOUR = "1 hour"


class CardError(Exception):
    """Like those of many SDKs: `__init__` takes other things than `args`."""

    def __init__(self, *, code: str, response: object) -> None:
        super().__init__(f"card refused: {code}")
        self.code = code
        self.response = response


class DeclinedError(CardError):
    pass


class CountingError(Exception):
    """Its `__init__` has effects."""

    made = 0

    def __init__(self, message: str) -> None:
        CountingError.made += 1
        super().__init__(message)


class ShownError(Exception):
    """Its text is made from what JSON cannot keep."""

    def __init__(self, thing: object) -> None:
        super().__init__()
        self.thing = thing

    def __str__(self) -> str:
        return f"about {type(self.thing).__name__}"


class StatusError(Exception):
    """Its text is made from an attribute that JSON can keep."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status

    def __str__(self) -> str:
        return f"status {self.status}"


class BrokenError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


class Stop(BaseException):
    """Not an Exception."""


async def the_step(execution: Execution[Any], path: str) -> StepInfo:
    return next(step for step in await execution.steps() if step.path == path)


class Failing:
    """A body that raises, and counts."""

    def __init__(self, make: Callable[[], BaseException]) -> None:
        self.runs = 0
        self._make = make

    async def __call__(self) -> None:
        self.runs += 1
        raise self._make()


async def live_and_replayed(body: Callable[[], Awaitable[object]] | Callable[[], object]) -> list[BaseException]:
    """What `step.run` raises for a body that fails: first live, then on replay."""
    app = App()
    seen: list[BaseException] = []

    @app.workflow
    async def flow(step: Step) -> str:
        try:
            await step.run("fail", body, retries=0)
        except Exception as error:
            seen.append(error)
        await step.sleep("pause", HOUR)
        return "went on"

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        assert await execution.result() == "went on"
        assert (await the_step(execution, "fail")).status == "failed"
    assert len(seen) == 2
    return seen


REBUILT: list[Callable[[], BaseException]] = [
    lambda: ValueError("no"),
    lambda: ValueError(),
    lambda: ValueError("a", 1, None),
    lambda: KeyError("key"),
    lambda: OSError(2, "No such file", "x.txt"),
    lambda: FileNotFoundError(2, "No such file", "x.txt"),
    lambda: TimeoutError("late"),
    lambda: ConnectionResetError(104, "reset"),
    lambda: ZeroDivisionError("division by zero"),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    lambda: json.JSONDecodeError("Expecting value", "{", 1),
    lambda: StatusError(404),
    lambda: NonRetryableError("never again"),
    lambda: InvalidInputError("bad"),
    lambda: CardError(code="declined", response=None),
    lambda: DeclinedError(code="declined", response={"id": 7}),
]


@pytest.mark.guarantee("G2")
@pytest.mark.parity("P5.4")
@pytest.mark.parametrize("make", REBUILT, ids=lambda make: type(make()).__name__)
async def test_an_error_is_the_same_live_and_on_replay(make: Callable[[], BaseException]) -> None:
    body, original = Failing(make), make()

    live, replayed = await live_and_replayed(body)

    for error in (live, replayed):
        assert type(error) is type(original)
        assert str(error) == str(original)
        assert error.args == original.args
        assert error.__dict__ == original.__dict__
    assert body.runs == 1


@pytest.mark.guarantee("G2")
async def test_an_os_error_keeps_its_errno_and_filename() -> None:
    for error in await live_and_replayed(Failing(lambda: OSError(13, "Permission denied", "x.txt"))):
        assert isinstance(error, PermissionError)
        assert (error.errno, error.strerror, error.filename) == (13, "Permission denied", "x.txt")


@pytest.mark.guarantee("G2")
async def test_rebuilding_never_calls_init() -> None:
    CountingError.made = 0

    live, replayed = await live_and_replayed(Failing(lambda: CountingError("once")))

    assert (type(live), type(replayed), str(replayed)) == (CountingError, CountingError, "once")
    assert CountingError.made == 1


@pytest.mark.guarantee("G2")
async def test_what_json_cannot_keep_of_an_error_is_missing_live_too() -> None:
    live, replayed = await live_and_replayed(Failing(lambda: CardError(code="declined", response=object())))

    assert type(live) is type(replayed) is CardError
    assert live.__dict__ == replayed.__dict__ == {"code": "declined"}


@pytest.mark.guarantee("G2")
async def test_notes_are_kept() -> None:
    def make() -> BaseException:
        error = ValueError("no")
        error.add_note("while charging")
        return error

    for error in await live_and_replayed(Failing(make)):
        assert error.__notes__ == ["while charging"]


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize(
    "make",
    [lambda: ShownError(object()), BrokenError, lambda: ExceptionGroup("two", [ValueError("a"), KeyError("b")])],
    ids=["str would differ", "str raises", "group"],
)
async def test_an_error_that_cannot_be_rebuilt_is_a_step_failed_error_both_times(make: Any) -> None:
    live, replayed = await live_and_replayed(Failing(make))

    assert type(live) is type(replayed)
    assert type(live) is StepFailedError
    assert str(live) == str(replayed)


@pytest.mark.guarantee("G2")
async def test_a_class_that_was_not_loaded_when_the_worker_started_is_a_step_failed_error() -> None:
    async def body() -> None:
        late = type("LateError", (CardError,), {"__module__": "stripe"})
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise late(code="x", response=None) from cause

    for error in await live_and_replayed(body):
        assert isinstance(error, StepFailedError)
        assert error.error_type == "stripe.LateError"
        assert error.error_message == "card refused: x"
        assert "LateError" in error.error_traceback
        assert error.causes[0][0].endswith("KeyError")
        assert error.is_type("stripe.LateError")
        assert error.is_type("LateError")
        assert error.is_type("CardError")
        assert error.is_type("Exception")
        assert not error.is_type("KeyError")


async def test_a_class_unknown_to_the_next_process_is_a_step_failed_error_there(tmp_path: Any) -> None:
    database = f"sqlite:///{tmp_path}/x.db"
    seen: list[BaseException] = []

    def program(body: Callable[[], Awaitable[None]]) -> App:
        app = App()

        @app.workflow
        async def flow(step: Step) -> None:
            try:
                await step.run("fail", body, retries=0)
            except Exception as error:
                seen.append(error)
            await step.sleep("pause", HOUR)

        return app

    class GoneError(Exception):
        __module__ = "gone"

    first, second = program(Failing(lambda: GoneError("bye"))), program(Failing(lambda: ValueError("must not run")))
    async with sandbox(first, database=database) as t:
        await first.workflows["flow"].trigger(None, id="e")
        await t.settle()
    GoneError.__qualname__ = GoneError.__name__ = "Renamed"
    async with sandbox(second, database=database) as t:
        await t.advance(HOUR)
        await second.workflows["flow"].get_execution("e").result()
    assert isinstance(seen[1], StepFailedError)
    assert seen[1].is_type("GoneError")
    assert seen[1].error_message == "bye"


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize(
    "message", ["\ud800", "a\x00b", "x" * 3_000_000, "ünïcödé 🌍"], ids=["surrogate", "nul", "long", "unicode"]
)
async def test_any_message_ends_in_a_recorded_failure(message: str) -> None:
    live, replayed = await live_and_replayed(Failing(lambda: ValueError(message)))

    assert type(live) is type(replayed)
    assert str(live) == str(replayed)


# ------------------------------------------------------------------------------------------------- caught and uncaught


@pytest.mark.guarantee("G3")
async def test_a_caught_failure_stays_a_failure_and_the_body_does_not_run_again() -> None:
    app, body = App(), Failing(lambda: ValueError("no"))

    @app.workflow
    async def flow(step: Step) -> str:
        try:
            await step.run("fail", body, retries=0)
        except ValueError:
            await step.sleep("pause", HOUR)
            return "handled"
        return "no failure"

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        await t.crash()
        await t.advance(HOUR)
        assert await execution.result() == "handled"
    assert body.runs == 1


@pytest.mark.parity("P5.4")
async def test_an_uncaught_failure_fails_the_execution_with_its_error() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("fail", Failing(lambda: CardError(code="declined", response=None)), retries=0)

    async with sandbox(app):
        execution = await flow.trigger()
        with pytest.raises(ExecutionFailedError) as caught:
            await execution.result()
        info = await execution.info()
    assert isinstance(caught.value.__cause__, CardError)
    assert caught.value.error_type.endswith("CardError")
    assert (info.status, info.output, info.error and info.error.message) == ("failed", None, "card refused: declined")
    assert info.error is not None
    assert "raise self._make()" in info.error.traceback


async def test_an_error_in_workflow_code_fails_the_execution_at_once() -> None:
    app = App()
    entries: list[str] = []

    @app.workflow
    async def flow(step: Step) -> None:
        entries.append("entered")
        raise CardError(code="own", response=None)

    async with sandbox(app):
        with pytest.raises(ExecutionFailedError, match="own"):
            await (await flow.trigger()).result()
    assert entries == ["entered"]


async def test_a_step_shows_its_error() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("fail", Failing(lambda: ValueError("no")), retries=0)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.settle()
        error = (await the_step(execution, "fail")).error
    assert error is not None
    assert error.type.endswith("ValueError")
    assert error.message == "no"
    assert "Traceback" in error.traceback


# ------------------------------------------------------------------------------------------------- not Exceptions


NOT_EXCEPTIONS: list[Callable[[], BaseException]] = [
    lambda: SystemExit(3),
    lambda: KeyboardInterrupt(),
    lambda: Stop("custom"),
    lambda: asyncio.CancelledError("by itself"),
    lambda: GeneratorExit("by itself"),
    lambda: BaseExceptionGroup("group", [Stop("a")]),
]


@pytest.mark.parametrize("thread", [False, True], ids=["async", "thread"])
@pytest.mark.parametrize("make", NOT_EXCEPTIONS, ids=lambda make: type(make()).__name__)
async def test_any_base_exception_of_a_body_is_a_failed_attempt(
    make: Callable[[], BaseException], thread: bool
) -> None:
    app = App()
    runs: list[int] = []

    def in_thread() -> str:
        runs.append(current_step().attempt)
        if len(runs) == 1:
            raise make()
        return "second attempt"

    async def in_loop() -> str:
        return in_thread()

    @app.workflow
    async def flow(step: Step) -> str:
        body: Any = in_thread if thread else in_loop
        return await step.run("odd", body)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance("10 seconds")
        assert await execution.result() == "second attempt"
        attempts = (await the_step(execution, "odd")).attempts
    assert runs == [1, 2]
    assert [attempt.error.type.rpartition(".")[2] for attempt in attempts] == [type(make()).__name__]


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize("make", NOT_EXCEPTIONS[:5], ids=lambda make: type(make()).__name__)
async def test_a_base_exception_that_used_up_its_attempts_is_the_same_catchable_error_both_times(
    make: Callable[[], BaseException],
) -> None:
    live, replayed = await live_and_replayed(Failing(make))

    assert isinstance(live, StepFailedError)
    assert live.is_type(type(make()).__name__)
    assert (type(live), str(live)) == (type(replayed), str(replayed))


@pytest.mark.parametrize("make", NOT_EXCEPTIONS[:4], ids=lambda make: type(make()).__name__)
async def test_a_base_exception_in_a_parallel_branch_is_a_failed_attempt(make: Callable[[], BaseException]) -> None:
    app, body = App(), Failing(make)

    @app.workflow
    async def flow(step: Step) -> list[bool]:
        results = await asyncio.gather(
            step.run("a", body, retries=0), step.run("b", body, retries=0), return_exceptions=True
        )
        return [isinstance(result, StepFailedError) for result in results]

    async with sandbox(app):
        assert await (await flow.trigger()).result() == [True, True]
    assert body.runs == 2


@pytest.mark.parametrize("make", [*NOT_EXCEPTIONS[:4], lambda: GeneratorExit()], ids=lambda make: type(make()).__name__)
async def test_a_base_exception_of_workflow_code_fails_the_execution_and_spares_the_worker(
    make: Callable[[], BaseException],
) -> None:
    app = App()

    @app.workflow
    async def odd(step: Step) -> None:
        raise make()

    @app.workflow
    def odd_thread(step: SyncStep) -> None:
        raise make()

    @app.workflow
    async def good(step: Step) -> str:
        return "fine"

    async with sandbox(app):
        for workflow in (odd, odd_thread):
            with pytest.raises(ExecutionFailedError) as caught:
                await (await workflow.trigger()).result()
            assert caught.value.error_type.endswith(type(make()).__name__)
        assert await (await good.trigger()).result() == "fine"


@pytest.mark.parametrize("thread", [False, True], ids=["async", "thread"])
async def test_stop_iteration_is_a_failure_like_any_other(thread: bool) -> None:
    def in_thread() -> None:
        raise StopIteration("enough")

    async def in_loop() -> None:
        raise StopIteration("enough")

    live, replayed = await live_and_replayed(in_thread if thread else in_loop)

    assert (type(live), str(live)) == (type(replayed), str(replayed))
    assert "StopIteration" in f"{type(live).__name__} {live}"


def test_stop_iteration_in_plain_workflows_is_a_failure_too() -> None:
    app = App(database="sqlite://")

    def enough() -> None:
        raise StopIteration("enough")

    @app.workflow
    def flow(step: SyncStep) -> str:
        try:
            step.run("stop", enough, retries=0)
        except (StopIteration, RuntimeError, StepFailedError) as error:
            return f"{type(error).__name__} {error}"
        return "no error"

    assert "StopIteration" in app.execute(flow)


@pytest.mark.guarantee("G2")
def test_plain_workflows_see_the_same_errors() -> None:
    app = App(database="sqlite://")

    def refuse() -> None:
        raise CardError(code="declined", response=None)

    @app.workflow
    def flow(step: SyncStep) -> str:
        try:
            step.run("charge", refuse, retries=0)
        except CardError as error:
            return error.code
        return "no error"

    assert app.execute(flow) == "declined"


# ------------------------------------------------------------------------------------------------- cancellation inside


async def test_a_timeout_inside_the_body_is_an_error_of_the_body() -> None:
    async def body() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    live, replayed = await live_and_replayed(body)
    assert type(live) is type(replayed) is TimeoutError


async def test_a_cancel_scope_inside_the_body_stays_inside() -> None:
    app = App()

    async def body() -> str:
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        await asyncio.sleep(0)
        return "moved on"

    @app.workflow
    async def flow(step: Step) -> str:
        return await step.run("body", body)

    async with sandbox(app):
        assert await (await flow.trigger()).result() == "moved on"


async def test_a_body_that_awaits_a_cancelled_task_has_failed() -> None:
    async def body() -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    live, replayed = await live_and_replayed(body)
    assert isinstance(live, StepFailedError)
    assert live.is_type("CancelledError")
    assert str(live) == str(replayed)


# ------------------------------------------------------------------------------------------------- other


async def test_a_thread_body_fails_like_an_async_one() -> None:
    def body() -> None:
        assert threading.current_thread() is not threading.main_thread()
        raise CardError(code="thread", response=None)

    live, replayed = await live_and_replayed(body)
    assert (type(live), str(live)) == (CardError, "card refused: thread")
    assert (type(replayed), str(replayed)) == (CardError, "card refused: thread")


async def test_a_function_that_is_not_callable_is_refused_with_its_place() -> None:
    app = App()
    refusals: list[str] = []

    @app.workflow
    async def flow(step: Step) -> None:
        wrong: Any = 7
        try:
            await step.run("x", wrong)
        except TypeError as error:
            refusals.append(str(error))

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        assert await execution.steps() == []
    assert "step.run" in refusals[0]


async def test_wrong_arguments_for_the_body_are_its_failure() -> None:
    async def body(number: int) -> int:
        return number

    call: Any = body
    live, replayed = await live_and_replayed(call)
    assert type(live) is type(replayed) is TypeError


async def test_a_serialization_error_of_a_body_is_not_tried_again() -> None:
    app, body = App(), Failing(lambda: SerializationError("mine"))

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("x", body)

    async with sandbox(app):
        with pytest.raises(ExecutionFailedError, match="mine"):
            await (await flow.trigger()).result()
    assert body.runs == 1


async def test_a_failed_execution_logs_without_noise(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("x", Failing(lambda: ValueError("no")), retries=0)

    async with sandbox(app):
        with pytest.raises(ExecutionFailedError):
            await (await flow.trigger()).result()
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]
