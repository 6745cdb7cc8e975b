"""What a step gives live is what every replay gives: the same value, of the same type."""

from __future__ import annotations

import ipaddress
import uuid
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, TypedDict, cast
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest

from stepwell import App, Execution, Step, StepInfo, current_step
from stepwell.errors import ExecutionFailedError, InvalidInputError, SerializationError
from stepwell.testing import sandbox

HOUR = "1 hour"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Item:
    sku: str
    price: Decimal
    tags: set[str] = field(default_factory=set[str])


@dataclass(frozen=True)
class Order:
    id: uuid.UUID
    items: list[Item]
    placed_at: datetime
    colour: Colour = Colour.RED
    note: str | None = None
    size: tuple[int, int] = (0, 0)
    raw: bytes = b""


class Address(pydantic.BaseModel):
    street: str
    since: date
    balance: Decimal = Decimal("0")


class Person(TypedDict):
    name: str
    born: date


class Point(msgspec.Struct):
    x: int
    y: float


class Pair(NamedTuple):
    left: int
    right: str


Plain: Any = namedtuple("Plain", "a b")  # pyright: ignore[reportUntypedNamedTuple]

ID = uuid.UUID("12345678-1234-5678-1234-567812345678")
MOMENT = datetime(2031, 5, 4, 3, 2, 1, 987654, tzinfo=UTC)
ORDER = Order(ID, [Item("a", Decimal("1.10"), {"x", "y"})], MOMENT, Colour.BLUE, None, (1, 2), b"\x00\xff")


class Opaque:
    """A class that nothing is known about."""


async def the_step(execution: Execution[Any], path: str) -> StepInfo:
    return next(step for step in await execution.steps() if step.path == path)


async def live_and_replayed(app: App, value: object, **options: Any) -> list[Any]:
    """What `step.run` gives for a body that returns the value: first live, then on replay."""
    seen: list[Any] = []
    runs: list[str] = []

    async def body() -> Any:
        runs.append("run")
        return value

    @app.workflow
    async def flow(step: Step) -> None:
        seen.append(await step.run("value", body, **options))
        await step.sleep(HOUR)

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        await execution.result()
    assert runs == ["run"]
    return seen


def kinds(value: Any) -> Any:
    """The types of a value and of everything in it."""
    cls = cast("type[Any]", type(value))
    if issubclass(cls, dict):
        return cls, {key: kinds(item) for key, item in value.items()}
    if issubclass(cls, list | tuple | deque):
        return cls, [kinds(item) for item in value]
    if issubclass(cls, set | frozenset):
        return cls, {type(item) for item in value}
    return cls


TYPED: list[tuple[Any, Any]] = [
    (None, None),
    (Order, ORDER),
    (list[Order], [ORDER]),
    (dict[str, Item], {"a": Item("b", Decimal("0.30"))}),
    (Address, Address(street="High St", since=date(2001, 2, 3), balance=Decimal("9.99"))),
    (list[Address], [Address(street="x", since=date(2001, 2, 3))]),
    (Person, {"name": "Ada", "born": date(1815, 12, 10)}),
    (Point, Point(1, 2.5)),
    (Pair, Pair(1, "r")),
    (Colour, Colour.BLUE),
    (Level, Level.HIGH),
    (dict[Colour, int], {Colour.RED: 1}),
    (dict[uuid.UUID, Decimal], {ID: Decimal("1.00")}),
    (dict[int, str], {1: "one"}),
    (Decimal, Decimal("1.10")),
    (datetime, MOMENT),
    (date, date(2031, 1, 2)),
    (time, time(3, 2, 1)),
    (timedelta, timedelta(days=1, microseconds=1)),
    (uuid.UUID, ID),
    (bytes, b"\x00\xff"),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (int | None, None),
    (int | None, 7),
    (bool, True),
    (int, 2**60),
    (float, 0.1),
    (str, 'ünïcödé 🌍 \t\n"'),
    (Literal["a", "b"], "a"),
    (Any, {"a": [1, 2.5, None, True, "x"]}),
]

TAKEN = TYPED[1:]
"""What a workflow may take: one whose input is None takes none."""
TYPED_IDS = [f"{number}-{annotation!r}".replace(f"{__name__}.", "") for number, (annotation, _) in enumerate(TYPED)]

UNTYPED: list[Any] = [
    None,
    True,
    0,
    -1,
    2**53 + 1,
    1.5,
    0.1 + 0.2,
    "",
    "text",
    [],
    {},
    [1, [2, [3]]],
    {"a": {"b": [None]}},
    MOMENT,
    Decimal("1.10"),
    ID,
    b"\x00\xff",
    (),
    (1, "a"),
    {1, 2},
    {"deep": [(1, Decimal("2.50")), {ID}, b"x", MOMENT]},
    [(1, 2), (3, (4, 5))],
    {"": 1, "$": 2, "a.b": 3},
]


@pytest.mark.guarantee("G2")
@pytest.mark.parity("P1.11")
@pytest.mark.parity("P4.6")
@pytest.mark.parametrize(("annotation", "value"), TYPED, ids=TYPED_IDS)
async def test_a_value_with_a_type_is_the_same_live_and_on_replay(annotation: Any, value: Any) -> None:
    live, replayed = await live_and_replayed(App(), value, returns=annotation)

    assert live == value == replayed
    assert kinds(live) == kinds(value) == kinds(replayed)


@pytest.mark.guarantee("G2")
@pytest.mark.parity("P1.11")
@pytest.mark.parametrize("value", UNTYPED, ids=lambda value: type(value).__name__)
async def test_a_value_without_a_type_is_the_same_live_and_on_replay(value: Any) -> None:
    live, replayed = await live_and_replayed(App(), value)

    assert live == value == replayed
    assert kinds(live) == kinds(value) == kinds(replayed)


ODD: list[Any] = [
    date(2031, 1, 2),
    time(1, 2),
    timedelta(seconds=1.5),
    datetime(2031, 1, 2, 3, 4),
    datetime(2031, 7, 2, 3, 4, tzinfo=ZoneInfo("Europe/Berlin")),
    datetime(2031, 7, 2, 3, 4, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    frozenset({1}),
    bytearray(b"x"),
    2**70,
    -0.0,
    1e308,
    complex(1, 2),
    range(3),
    Colour.RED,
    Level.HIGH,
    Pair(1, "r"),
    Plain(1, 2),
    Point(1, 2.0),
    ORDER,
    Address(street="x", since=date(2001, 2, 3)),
    OrderedDict(b=1, a=2),
    defaultdict(int, {"a": 1}),
    deque([1]),
    Fraction(1, 3),
    PurePosixPath("/a"),
    ipaddress.ip_address("::1"),
    {1: "a"},
    {(1, 2): "a"},
    {None: 1},
    {True: 1, "True": 2},
    ValueError("as a value"),
    object(),
    Opaque(),
    Opaque,
    len,
    (number for number in range(2)),
    memoryview(b"x"),
    type("Text", (str,), {})("sub"),
    type("Number", (int,), {})(3),
    type("Things", (list,), {})([1]),
    Decimal("NaN"),
    Decimal("Infinity"),
]


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
async def test_any_other_value_without_a_type_is_kept_exactly_or_refused(value: Any) -> None:
    refused: BaseException | None = None
    seen: list[Any] = [value, value]
    try:
        seen = await live_and_replayed(App(), value)
    except ExecutionFailedError as error:
        refused = error.__cause__

    assert refused is None or isinstance(refused, SerializationError)
    assert seen == [value, value]
    assert [kinds(item) for item in seen] == [kinds(value)] * 2
    assert [repr(item) for item in seen] == [repr(value)] * 2


@pytest.mark.parametrize("value", [Decimal("1.10"), MOMENT, ID, b"\x00", (1, 2), {3}], ids=repr)
async def test_a_dictionary_that_looks_like_a_stored_value_stays_a_dictionary(value: Any) -> None:
    app = App()

    async def body() -> Any:
        return value

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("value", body)

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        stored = (await the_step(execution, "value")).output

    assert await live_and_replayed(App(), stored) == [stored, stored]
    assert await live_and_replayed(App(), [{"a": stored}]) == [[{"a": stored}]] * 2


async def test_the_return_annotation_of_the_body_is_its_type() -> None:
    app = App()
    seen: list[Any] = []

    async def place() -> Order:
        return ORDER

    def count() -> tuple[int, ...]:
        return (1, 2)

    @app.workflow
    async def flow(step: Step) -> None:
        seen.append((await step.run("place", place), await step.run("count", count)))
        await step.sleep(HOUR)

    async with sandbox(app) as t:
        await flow.trigger()
        await t.advance(HOUR)
    assert seen == [(ORDER, (1, 2))] * 2


@pytest.mark.guarantee("G2")
async def test_a_number_takes_the_annotated_type_live_too() -> None:
    live, replayed = await live_and_replayed(App(), 1, returns=float)

    assert (type(live), type(replayed)) == (float, float)


@pytest.mark.guarantee("G2")
async def test_changing_a_returned_object_does_not_change_the_record() -> None:
    app = App()
    seen: list[list[int]] = []

    async def body() -> list[int]:
        return [1]

    @app.workflow
    async def flow(step: Step) -> None:
        first = await step.run("list", body)
        seen.append(list(first))
        first.append(2)
        seen.append(await step.run("list", body))
        await step.sleep(HOUR)

    async with sandbox(app) as t:
        await flow.trigger()
        await t.advance(HOUR)
    assert seen == [[1]] * 4


@pytest.mark.guarantee("G2")
async def test_an_object_that_the_body_keeps_and_changes_is_not_the_result() -> None:
    app = App()
    kept: list[int] = [1]

    async def body() -> list[int]:
        return kept

    @app.workflow
    async def flow(step: Step) -> list[int]:
        result = await step.run("list", body)
        kept.append(2)
        return result

    async with sandbox(app):
        assert await (await flow.trigger()).result() == [1]


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parity("P4.6")
async def test_a_result_that_cannot_be_stored_fails_at_once_and_names_step_and_type() -> None:
    app = App()
    runs: list[str] = []

    async def body() -> object:
        runs.append("run")
        return Opaque()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("make thing", body, retries=5)

    async with sandbox(app):
        execution = await flow.trigger()
        with pytest.raises(ExecutionFailedError) as caught:
            await execution.result()
        assert (await the_step(execution, "make thing")).status == "failed"
    assert isinstance(caught.value.__cause__, SerializationError)
    assert "make thing" in str(caught.value.__cause__)
    assert "Opaque" in str(caught.value.__cause__)
    assert runs == ["run"]


@pytest.mark.guarantee("G2")
async def test_a_result_of_another_type_than_annotated_is_not_turned_into_something_else() -> None:
    assert await live_and_replayed(App(), "7", returns=int) == ["7", "7"]


REFUSED: list[Any] = [float("nan"), float("inf"), -float("inf"), "a\x00b", "\ud800", "x\udfff"]
PLACES: dict[str, Callable[[Any], Any]] = {
    "itself": lambda value: value,
    "in a list": lambda value: [1, value],
    "in a dict": lambda value: {"k": value},
    "as a key": lambda value: {value: 1},
    "deep": lambda value: {"k": [{"k": (value,)}]},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", REFUSED, ids=ascii)
async def test_what_json_cannot_say_is_refused_as_a_result(value: Any, place: str) -> None:
    with pytest.raises(ExecutionFailedError) as caught:
        await live_and_replayed(App(), PLACES[place](value), retries=3)
    assert isinstance(caught.value.__cause__, SerializationError)
    assert "'value'" in str(caught.value.__cause__)


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", REFUSED, ids=ascii)
async def test_what_json_cannot_say_is_refused_as_an_input(value: Any, place: str) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, input: Any) -> None: ...

    async with sandbox(app):
        with pytest.raises(InvalidInputError):
            await flow.trigger(PLACES[place](value))
        assert (await app.list_executions()).executions == []


@pytest.mark.parametrize(
    "value", [*REFUSED, Opaque()], ids=lambda value: "opaque" if isinstance(value, Opaque) else ascii(value)
)
async def test_what_cannot_be_stored_fails_the_execution_as_its_output(value: Any) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> Any:
        return value

    async with sandbox(app):
        execution = await flow.trigger()
        with pytest.raises(ExecutionFailedError) as caught:
            await execution.result()
        assert await execution.status() == "failed"
    assert isinstance(caught.value.__cause__, SerializationError)


@pytest.mark.guarantee("G10")
async def test_payloads_over_the_limit_are_refused_where_they_enter() -> None:
    app = App(payload_limit="1 KiB")

    async def body() -> str:
        return "ü" * 600

    @app.workflow
    async def big_result(step: Step) -> None:
        await step.run("big", body)

    @app.workflow
    async def big_output(step: Step) -> str:
        return "x" * 2000

    @app.workflow
    async def big_input(step: Step, text: str) -> int:
        return len(text)

    async with sandbox(app):
        with pytest.raises(ExecutionFailedError, match=r"'big'.*1,024"):
            await (await big_result.trigger()).result()
        with pytest.raises(ExecutionFailedError, match=r"1,024"):
            await (await big_output.trigger()).result()
        with pytest.raises(InvalidInputError, match=r"1,024"):
            await big_input.trigger("x" * 2000)
        assert await (await big_input.trigger("x" * 1000)).result() == 1000
        assert (await big_input.list_executions()).executions[1:] == []


# ------------------------------------------------------------------------------------------------- workflows


@pytest.mark.parity("P2.3")
@pytest.mark.parametrize(("annotation", "value"), TAKEN, ids=TYPED_IDS[1:])
async def test_input_and_output_of_a_workflow_keep_their_types(annotation: Any, value: Any) -> None:
    app = App()
    seen: list[Any] = []

    async def function(step: Step, input: Any) -> Any:
        seen.append(input)
        await step.sleep(HOUR)
        return input

    function.__annotations__.update({"input": annotation, "return": annotation})
    flow = app.workflow(function)

    async with sandbox(app) as t:
        execution = await flow.trigger(value)
        await t.advance(HOUR)
        output = await execution.result()
        assert (await execution.info()).output == value
    assert [*seen, output] == [value] * 3
    assert [kinds(item) for item in (*seen, output)] == [kinds(value)] * 3


async def test_changing_the_input_does_not_change_what_a_replay_sees() -> None:
    app = App()
    seen: list[list[int]] = []

    @app.workflow
    async def flow(step: Step, input: list[int]) -> None:
        seen.append(list(input))
        input.append(2)
        await step.sleep(HOUR)

    async with sandbox(app) as t:
        mine = [1]
        await flow.trigger(mine)
        mine.append(3)
        await t.advance(HOUR)
    assert seen == [[1], [1]]


@pytest.mark.guarantee("G10")
@pytest.mark.parity("P5.9")
async def test_an_input_that_does_not_fit_its_annotation_is_refused_and_nothing_is_written() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step, item: Item) -> None: ...

    async with sandbox(app):
        wrong: Any = {"sku": 7, "price": "1.10"}
        with pytest.raises(InvalidInputError, match="sku"):
            await flow.trigger(wrong)
        with pytest.raises(InvalidInputError):
            await flow.trigger_many([Item("a", Decimal(1)), wrong])
        assert (await app.list_executions()).executions == []


async def test_recorded_arguments_never_make_a_step_fail() -> None:
    app = App()

    async def body(*args: object) -> int:
        return len(args)

    @app.workflow
    async def flow(step: Step) -> int:
        return await step.run("odd", body, Opaque(), float("nan"), "\ud800", "a\x00b", "x" * 100_000, {1: {2}})

    async with sandbox(app):
        execution = await flow.trigger()
        assert await execution.result() == 6
        shown = (await the_step(execution, "odd")).input
    assert "Opaque" in repr(shown)
    assert len(repr(shown)) < 5000


@pytest.mark.parity("P1.8")
async def test_input_is_recorded_as_the_input_of_the_step() -> None:
    app = App()

    async def body(number: int) -> int:
        return number

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("given", body, 1, input={"order": 7})
        await step.run("none", body, 1, input=None)
        await step.run("preview", body, 1)

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        found = {step.name: step.input for step in await execution.steps()}
    assert found["given"] == {"order": 7}
    assert found["none"] is None
    assert "1" in repr(found["preview"])


async def test_without_record_arguments_nothing_of_them_is_kept() -> None:
    app = App(record_arguments=False)

    async def body(password: str) -> int:
        return len(password)

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("login", body, "hunter2")

    async with sandbox(app):
        execution = await flow.trigger()
        await execution.result()
        assert (await the_step(execution, "login")).input is None


async def test_a_recorded_result_that_no_longer_fits_stops_before_any_further_body(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/x.db"
    old, new = App(), App()
    later: list[str] = []

    async def text() -> str:
        return "text"

    async def number() -> int:
        return 7

    async def further() -> None:
        later.append("ran")

    @old.workflow(name="flow")
    async def first(step: Step) -> str:
        value = await step.run("value", text)
        await step.sleep("pause", HOUR)
        return value

    @new.workflow(name="flow")
    async def second(step: Step) -> None:
        await step.run("value", number)
        await step.run("further", further)

    async with sandbox(old, database=database) as t:
        await first.trigger(id="e")
        await t.settle()
    async with sandbox(new, database=database) as t:
        await t.advance(HOUR)
        info = await second.get_execution("e").info()
    assert (info.status, later) == ("queued", [])
    async with sandbox(old, database=database, start=info.wake_at):
        assert await first.get_execution("e").result() == "text"


# ------------------------------------------------------------------------------------------------- derived and read once


async def test_now_is_read_once() -> None:
    app = App()
    seen: list[datetime] = []

    @app.workflow
    async def flow(step: Step) -> None:
        seen.append(await step.now("start"))
        await step.sleep(HOUR)

    async with sandbox(app, start=MOMENT) as t:
        await flow.trigger()
        await t.advance(HOUR)
    assert seen == [MOMENT, MOMENT]
    assert seen[0].tzinfo is UTC


async def test_uuid_and_random_are_derived_and_nothing_is_written() -> None:
    app = App()
    seen: list[tuple[uuid.UUID, float]] = []

    @app.workflow
    async def flow(step: Step) -> None:
        seen.append((step.uuid("key"), step.random("dice")))
        await step.sleep("pause", HOUR)

    async with sandbox(app) as t:
        first = await flow.trigger()
        await t.advance(HOUR)
        await flow.trigger()
        await t.advance(HOUR)
        assert [step.path for step in await first.steps()] == ["pause"]
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert seen[0] != seen[2]
    assert 0 <= seen[0][1] < 1


async def test_uuid_differs_by_name_and_by_scope() -> None:
    app = App()

    async def inside() -> str:
        return str(current_step().uuid("a"))

    @app.workflow
    async def flow(step: Step) -> int:
        found = {str(step.uuid("a")), str(step.uuid("a")), str(step.uuid("b")), await step.run("inner", inside)}
        return len(found)

    async with sandbox(app):
        assert await (await flow.trigger()).result() == 3


@pytest.mark.parity("P5.6")
async def test_progress_is_a_milestone_written_once() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.progress("Halfway / done", fraction=0.5)
        await step.progress("Halfway / done", fraction=0.5)
        await step.sleep("pause", HOUR)
        await step.progress("All done")

    async with sandbox(app) as t:
        execution = await flow.trigger()
        await t.advance(HOUR)
        await execution.result()
        milestones = [step for step in await execution.steps() if step.kind == "progress"]
    assert [(step.name, step.output["fraction"]) for step in milestones] == [
        ("Halfway / done", 0.5),
        ("All done", None),
    ]


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize(("message", "fraction"), [("", None), (7, None), ("x", 1.5), ("x", -0.1), ("\ud800", None)])
async def test_bad_progress_is_refused(message: Any, fraction: Any) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.progress(message, fraction=fraction)

    async with sandbox(app):
        execution = await flow.trigger()
        with pytest.raises(ExecutionFailedError):
            await execution.result()
        assert await execution.steps() == []


@pytest.mark.guarantee("G2")
async def test_a_value_survives_a_restart_on_a_file(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/x.db"
    seen: list[Order] = []

    def program() -> App:
        app = App()

        async def place() -> Order:
            return ORDER

        @app.workflow
        async def flow(step: Step) -> Order:
            seen.append(await step.run("place", place))
            await step.sleep(HOUR)
            return seen[-1]

        return app

    first, second = program(), program()
    async with sandbox(first, database=database) as t:
        await first.workflows["flow"].trigger(None, id="e")
        await t.settle()
    async with sandbox(second, database=database) as t:
        await t.advance(HOUR)
        assert await second.workflows["flow"].get_execution("e").result() == ORDER
    assert seen == [ORDER, ORDER]
