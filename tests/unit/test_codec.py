"""What comes back from the text of a value is the value: equal, and of the same types all through."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import enum
import functools
import json
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Self, TypedDict, TypeVar, cast
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwell.codec import NO_ANNOTATION, Codec, codec_for, codec_of_function, preview
from stepwell.errors import InvalidInputError, SerializationError

UNTYPED = codec_for(NO_ANNOTATION)
T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Mixed(enum.Enum):
    HALF = 0.5
    PAIR = (1, 2)
    TEXT = "text"


class Word(enum.StrEnum):
    A = "a"


class Level(enum.IntEnum):
    LOW = 1


class Right(enum.IntFlag):
    READ = 1
    WRITE = 2


@dataclass
class Item:
    sku: str
    quantity: int = 1
    price: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Order:
    id: str
    items: list[Item]
    placed_at: datetime | None = None
    meta: Any = None
    weight: float = 0.0


@dataclass
class BigItem(Item):
    size: int = 9


@dataclass(eq=False)
class NoEq:
    a: int
    parts: list[int]


@dataclass
class Derived:
    base: int
    factor: dataclasses.InitVar[int] = 2
    result: int = field(init=False)

    def __post_init__(self, factor: int) -> None:
        self.result = self.base * factor


@dataclass
class Cached:
    a: int

    @functools.cached_property
    def handle(self) -> object:
        return object()


@dataclass
class Box(Generic[T]):
    value: T


@dataclass
class Text:
    text: str


@dataclass
class Call:
    tool: str
    text: str = ""


@dataclass
class Message:
    parts: list[Text | Call]


@dataclass
class Tags:
    tags: set[str]


class Point(msgspec.Struct, frozen=True):
    x: int
    y: float = 0.0


class Node(msgspec.Struct):
    value: int
    next: Node | None = None


class Pair(NamedTuple):
    left: int
    right: str = "r"


class Movie(TypedDict, total=False):
    title: str
    released: date


class Address(pydantic.BaseModel):
    street: str
    since: date | None = None
    balance: Decimal = Decimal(0)


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    name: str = pydantic.Field(alias="NAME", serialization_alias="nom")
    extra_field: Any = None
    _secret: int = pydantic.PrivateAttr(default=0)


@dataclass
class House:
    address: Address


class Opaque:
    pass


class UserId(str):
    __slots__ = ()


Name = NewType("Name", str)
MOMENT = datetime(2031, 5, 4, 3, 2, 1, 987654, tzinfo=UTC)
BERLIN = datetime(2031, 10, 26, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


def brief(value: Any) -> str:
    """A short name for a parametrised value, the same in every process: no addresses, no order of sets."""
    shown = f"int{value.bit_length()}" if type(value) is int else ascii(value)
    if " at 0x" in shown or "{" in shown:
        return type(value).__name__
    return shown[:50]


def kinds(value: Any) -> Any:
    """The value with the types of all its parts, so that `==` tells 1, 1.0 and True apart."""
    cls: Any = value.__class__
    if issubclass(cls, dict):
        return cls, [(kinds(key), kinds(item)) for key, item in value.items()]
    if issubclass(cls, (set, frozenset)):
        return cls, sorted((kinds(item) for item in value), key=repr)
    if issubclass(cls, (list, tuple)):
        return cls, [kinds(item) for item in value]
    if dataclasses.is_dataclass(value):
        return cls, [kinds(getattr(value, f.name)) for f in dataclasses.fields(value)]
    if issubclass(cls, pydantic.BaseModel):
        return cls, kinds(value.__dict__), kinds(value.__pydantic_extra__), kinds(value.__pydantic_private__)
    return cls, repr(value)


def assert_comes_back(codec: Codec, value: object) -> str:
    text, live = codec.snapshot(value)
    replayed = codec.decode(text)

    assert kinds(live) == kinds(replayed) == kinds(value)
    assert codec.encode(value) == text
    assert codec.encode(replayed) == text
    json.loads(text)
    return text


# ------------------------------------------------------------------------------------------------- without a type

PLAIN: list[Any] = [
    None, True, False, 0, -1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**4000, 1.5, -0.0, 1e308, 0.1 + 0.2, "", "text",
    "ünïcödé 🌍 \t\n\"", "\\u0000", "\\\\u0000", "$type", '"$type"', "\x7f\u2028", [], {}, [1, [2, [3]]], {"a": {"b": [None, True, 1.0]}},
    {"": 1, "$": 2, "a.b": 3}, [1, True, 1.0],
]  # fmt: skip

TAGGED: list[Any] = [
    (), (1, "a"), {1, 2}, set(), frozenset({"a"}), {(1, 2), "b"}, b"", b"\x00\xff", bytearray(b"x"), Decimal("1.10"), Decimal("-0"),
    Decimal("1E+5"), MOMENT, MOMENT.replace(tzinfo=None), MOMENT.replace(tzinfo=None, fold=1), BERLIN, BERLIN.replace(fold=0),
    datetime(2031, 1, 1, tzinfo=ZoneInfo("UTC")), datetime(1, 1, 1), datetime.max, datetime(2031, 1, 1, tzinfo=timezone(timedelta(hours=5, seconds=7))),
    date(2031, 1, 2), time(3, 2, 1, 5), time(3, tzinfo=UTC), timedelta(0), timedelta(days=-1, microseconds=1), timedelta.max, timedelta.min,
    ID, complex(1, -0.5), {1: "a"}, {(1, 2): {3}}, {None: 1}, {True: 1, "True": 2}, {1: 1, "1": 2}, {1.5: 1}, {b"k": 1},
    {"$type": "decimal", "value": "1"}, {"$type": 1}, [{"$type": "as-is", "value": [{"$type": "x"}]}], {"a": {"$type": None, "b": (1,)}},
    {"deep": [(1, Decimal("2.50")), {ID}, b"x", MOMENT]}, (1, (2, (3,))), [frozenset({frozenset({1})})],
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=brief)
def test_json_values_are_stored_as_json(value: Any) -> None:
    text = assert_comes_back(UNTYPED, value)

    assert kinds(json.loads(text)) == kinds(value)


@pytest.mark.parametrize("value", TAGGED, ids=brief)
def test_other_built_in_values_come_back_through_tags(value: Any) -> None:
    assert_comes_back(UNTYPED, value)
    assert_comes_back(UNTYPED, [value, {"k": value}])
    assert_comes_back(codec_for(Any), value)
    assert_comes_back(codec_for(object), value)


def test_the_tagged_form_is_the_documented_one() -> None:
    assert UNTYPED.encode({"price": Decimal("1.50")}) == '{"price":{"$type":"decimal","value":"1.50"}}'


def test_a_moment_stays_the_moment_when_the_rules_of_its_zone_change() -> None:
    text = '{"$type":"datetime","zone":"Europe/Berlin","value":"2031-07-01T12:00:00+05:00"}'

    assert UNTYPED.decode(text) == datetime(2031, 7, 1, 7, tzinfo=UTC)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    | st.binary() | st.decimals(allow_nan=False, allow_infinity=False) | st.dates() | st.times() | st.timedeltas() | st.uuids()
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.timezones())
)  # fmt: skip
KEYS = st.text() | st.sampled_from(["$type", "value", "class"])
HASHABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.dates(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
        | st.frozensets(HASHABLE, max_size=4)
    ),
    max_leaves=15,
)


def is_storable(value: Any) -> bool:
    """Whether there is no NUL and no surrogate in it; nothing else may be refused."""
    try:
        UNTYPED.encode(value)
    except SerializationError as error:
        if "u0000" in str(error) or "surrogate" in str(error):
            return False
        raise
    return True


@given(VALUES)
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=300)
def test_any_value_of_built_in_types_comes_back(value: Any) -> None:
    if is_storable(value):
        assert_comes_back(UNTYPED, value)
        for annotation in (dict, list, dict[str, Any], str, int | None, Order):
            text, live = codec_for(annotation).snapshot(value)
            assert kinds(live) == kinds(codec_for(annotation).decode(text)) == kinds(value)


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_decoding_any_text_gives_a_value_or_a_serialization_error(text: str) -> None:
    for codec in (UNTYPED, codec_for(Order), codec_for(Text | Call), codec_for(Address)):
        try:
            codec.decode(text)
        except SerializationError:
            continue


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=8))
def test_hostile_tags_give_a_value_or_a_serialization_error(value: Any) -> None:
    if not is_storable(value):
        return
    inner = UNTYPED.encode(value)
    for tag in ("decimal", "datetime", "instance", "set", "dict", "complex", "uuid", "bytes", "as-is", "tuple", "time"):
        for text in (f'{{"$type":"{tag}","value":{inner}}}', f'{{"$type":"{tag}","class":{inner},"zone":{inner}}}'):
            try:
                codec_for(Order).decode(text)
            except SerializationError:
                continue


def test_sets_are_encoded_alike_in_every_process() -> None:
    program = """
import dataclasses
from stepwell.codec import *

@dataclasses.dataclass
class Tags:
    tags: set[str]

v = {str(i) for i in range(50)}
cases = [(NO_ANNOTATION, v), (set[str], v), (Tags, Tags(v)), (dict[str, set[str]], {'b': v, 'a': v})]
print([codec_for(annotation).encode(value) for annotation, value in cases])
"""
    outputs = {
        subprocess.run([sys.executable, "-c", program], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}, capture_output=True, check=True).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip

    assert len(outputs) == 1


# ---------------------------------------------------------------------------------------------------- with a type

ITEM = Item("a", 2, Decimal("1.10"))
TYPED: list[tuple[Any, Any]] = [
    (None, None), (int, 7), (int, 10**30), (bool, True), (float, 0.1), (str, "x"), (str, "$type"), (str, "\\u0000"), (bytes, b"\x00\xff"),
    (Decimal, Decimal("1.10")), (datetime, MOMENT), (datetime, BERLIN), (datetime, MOMENT.replace(tzinfo=None, fold=1)), (date, date(2031, 1, 2)),
    (time, time(3, 2)), (timedelta, timedelta(days=1, microseconds=1)), (uuid.UUID, ID), (complex, 1j), (Literal["a", 2], "a"), (Name, "n"),
    (Annotated[list[int], "x"], [1]), (int | None, None), (int | str, "x"), (str | datetime, MOMENT), (str | datetime, "2031-05-04T03:02:01"),
    (tuple[int, str], (1, "a")), (tuple[int, ...], (1, 2)), (set[int], {1, 2}), (frozenset[str], frozenset({"a"})), (list[Decimal], [Decimal(1)]),
    (dict[int, str], {1: "one", -2: "two"}), (dict[uuid.UUID, Decimal], {ID: Decimal("1.00")}), (dict[tuple[int, int], str], {(1, 2): "x"}),
    (dict[str, set[str]], {"b": {"x", "y"}, "a": set[str]()}), (dict[str, int], {"b": 1, "a": 2}), (dict[str, int], {"$type": 1}),
    (Sequence[int], [1, 2]), (Sequence[int], (1, 2)), (list[int] | tuple[int, ...], (1, 2)),
    (Colour, Colour.BLUE), (dict[Colour, int], {Colour.RED: 1}), (Mixed, Mixed.HALF), (list[Mixed], [Mixed.PAIR, Mixed.TEXT]), (Word, Word.A),
    (Level, Level.LOW), (Right, Right.READ | Right.WRITE), (UserId, UserId("u")), (list[UserId], [UserId("u")]),
    (Item, ITEM), (list[Item], [ITEM]), (Order, Order("o", [ITEM], MOMENT)), (Order, Order("o", [ITEM], BERLIN, {"k": (1, Decimal(2))})),
    (NoEq, NoEq(1, [2])), (Derived, Derived(2, 5)), (Box[int], Box(1)), (Box[date], Box(date(2031, 1, 1))), (Box[Any], Box((1, 2))),
    (Text | Call, Text("t")), (Text | Call, Call("t")), (Text | Call | None, None), (list[Text | Call], [Call("a", "b"), Text("c")]),
    (Message, Message([Text("t"), Call("c")])), (Tags, Tags({"b", "a"})), (Point, Point(1, 2.5)), (Node, Node(1, Node(2))), (Pair, Pair(1, "x")),
    (Movie, {"title": "t", "released": date(2031, 1, 1)}), (Movie, {}),
    (Address, Address(street="s", since=date(2031, 1, 1), balance=Decimal("9.99"))), (list[Address], [Address(street="s")]),
    (dict[str, Address | None], {"a": Address(street="s"), "b": None}), (House, House(Address(street="s"))),
    (Address | Item, ITEM), (Aliased, Aliased(NAME="n")), (Aliased, Aliased.model_validate({"NAME": "n", "more": 1})), (Aliased, Aliased(NAME="n", extra_field=MOMENT)),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value"), TYPED, ids=brief)
def test_a_value_of_the_annotated_type_comes_back(annotation: Any, value: Any) -> None:
    assert_comes_back(codec_for(annotation), value)
    assert codec_for(annotation).validate(value) == codec_for(annotation).encode(value)


def test_what_json_can_say_under_its_annotation_has_no_tags() -> None:
    order = Order("o", [ITEM], MOMENT)

    text = codec_for(Order).encode(order)

    assert json.loads(text) == {
        "id": "o",
        "items": [{"sku": "a", "quantity": 2, "price": "1.10"}],
        "placed_at": "2031-05-04T03:02:01.987654Z",
        "meta": None,
        "weight": 0.0,
    }


def test_private_state_of_a_model_comes_back() -> None:
    model = Aliased(NAME="n")
    model._secret = 5

    text, live = codec_for(Aliased).snapshot(model)

    assert isinstance(live, Aliased)
    assert live._secret == 5
    assert codec_for(Aliased).decode(text) == model


def test_an_int_where_a_float_is_annotated_becomes_one_live_and_on_replay() -> None:
    text, live = codec_for(float).snapshot(1)

    assert type(live) is type(codec_for(float).decode(text)) is float
    assert_comes_back(codec_for(int | float), 1)
    assert_comes_back(codec_for(float), 2**53 + 1)


MISMATCHED: list[tuple[Any, Any]] = [
    (int, "x"), (int, True), (int, 1.0), (str, None), (str, 5), (None, 1), (bool, 1), (Item, None), (Item, {"sku": "a"}), (list[int], ["a"]),
    (dict, {"a": Decimal(1)}), (list, [(1, 2), MOMENT]), (dict[str, Decimal], {"a": 1.5}), (tuple[int, int], [1, 2]), (set[int], [1]),
    (datetime, "2031-01-01"), (Decimal, "1.5"), (bytes, "eA=="), (Colour, "red"), (Literal[1], True), (Item, Item("a", True)),
    (Item, Item(5)),  # pyright: ignore[reportArgumentType]
    (Movie, [1]), (Movie, {"title": "t", "more": 1}), (Address, None), (Text | Call, {"text": "t"}),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value"), MISMATCHED, ids=brief)
def test_a_result_that_does_not_match_its_annotation_stays_what_it_is(annotation: Any, value: Any) -> None:
    assert_comes_back(codec_for(annotation), value)


def test_a_cached_property_is_not_part_of_the_value() -> None:
    value = Cached(1)
    assert value.handle

    _, live = codec_for(Cached).snapshot(value)

    assert live == Cached(1)


def test_a_cached_property_is_not_part_of_a_model_either() -> None:
    class Model(pydantic.BaseModel):
        a: int

        @functools.cached_property
        def handle(self) -> object:
            return object()

    value = Model(a=1)
    assert value.handle

    _, live = codec_for(Model).snapshot(value)

    assert isinstance(live, Model)
    assert live.__dict__ == {"a": 1}


@pytest.mark.parametrize("annotation", ["Order", T, Self, 5, "no type at all", NO_ANNOTATION, Any, object], ids=repr)
def test_what_is_no_type_counts_as_no_annotation(annotation: Any) -> None:
    assert codec_for(annotation) is UNTYPED


def test_codecs_are_made_once_even_for_annotations_without_a_hash() -> None:
    annotation = Annotated[list[int], ["unhashable"]]

    assert codec_for(list[Order]) is codec_for(list[Order])
    assert codec_for(annotation) is codec_for(annotation)
    assert_comes_back(codec_for(annotation), [1])


def test_two_classes_of_one_name_in_one_annotation_are_told_apart() -> None:
    other = dataclasses.make_dataclass("Text", [("text", str)])
    other.__module__ = "elsewhere"
    codec = codec_for(Text | other)

    assert_comes_back(codec, Text("a"))
    assert_comes_back(codec, other("a"))


def test_fields_that_came_later_take_their_defaults_and_fields_that_went_are_ignored() -> None:
    old = '{"$type":"instance","class":"Item","value":{"sku":"a","gone":1}}'

    assert codec_for(Item).decode(old) == Item("a")
    assert codec_for(Item).decode('{"sku":"a","gone":1}') == Item("a")
    model = (
        '{"$type":"instance","class":"Address","value":{"fields":{"street":"s","gone":1},"extra":null,"private":null}}'
    )
    assert codec_for(Address).decode(model) == Address(street="s")


# --------------------------------------------------------------------------------------------------------- refusals

NOT_RESTORABLE: list[tuple[Any, Any, str]] = [
    (NO_ANNOTATION, ITEM, r"An Item cannot be restored later because the function has no return annotation\. Write `-> Item`, or pass returns=Item\."),
    (NO_ANNOTATION, [{"a": ITEM}], r"An Item at \$\[0\]\.a cannot be restored later"),
    (NO_ANNOTATION, Address(street="s"), "An Address cannot .*returns=Address"),
    (NO_ANNOTATION, Colour.RED, "A Colour cannot"),
    (NO_ANNOTATION, Pair(1), "A Pair cannot"),
    (NO_ANNOTATION, Word.A, "A Word cannot"),
    (NO_ANNOTATION, Level.LOW, "A Level cannot"),
    (NO_ANNOTATION, {Word.A: 1}, "A Word at"),
    (NO_ANNOTATION, UserId("u"), r"A UserId cannot be restored later as the kind of str that it is\. Convert it with str\(…\)\."),
    (NO_ANNOTATION, collections.OrderedDict(a=1), r"Convert it with dict\(…\)"),
    (NO_ANNOTATION, collections.Counter("a"), "A Counter cannot"),
    (NO_ANNOTATION, Opaque(), "An Opaque cannot .*not a dataclass, pydantic model, msgspec Struct, NamedTuple or enum"),
    (NO_ANNOTATION, print, "cannot be restored later"),
    (NO_ANNOTATION, [1, object()], r"An object at \$\[1\]"),
    (Opaque, Opaque(), "An Opaque cannot be restored later"),
    (Item, BigItem("a"), r"A BigItem cannot be restored later because `Item` does not name that class\. Write `-> BigItem`"),
    (list[Item], [ITEM, BigItem("a")], r"A BigItem at \$\[1\]"),
    (Order, Order("o", [BigItem("a")]), r"A BigItem at \$\.items\[0\]"),
    (dict, {"a": ITEM}, r"An Item at \$\.a cannot be restored later because `dict` does not name"),
    (list, [Colour.RED], r"A Colour at \$\[0\]"),
    (str, Word.A, "A Word cannot"),
    (int, Level.LOW, "A Level cannot"),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value", "problem"), NOT_RESTORABLE, ids=brief)
def test_what_cannot_come_back_is_refused_with_what_to_do(annotation: Any, value: Any, problem: str) -> None:
    with pytest.raises(SerializationError, match=problem):
        codec_for(annotation).snapshot(value)


NOT_JSON: list[tuple[Any, str]] = [
    (float("nan"), "float nan"), (float("inf"), "float inf"), (-float("inf"), "float -inf"), (Decimal("NaN"), "NaN"), (Decimal("sNaN"), "sNaN"),
    (Decimal("-Infinity"), "Infinity"), (complex(float("nan"), 0), "nan"), ("a\0b", "u0000"), ("\ud800", "lone surrogate"), ("x\udfff", "lone surrogate"),
    (10**4300, "4,300 digits"), (-(10**5000), "4,300 digits"),
]  # fmt: skip
PLACES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "itself": (lambda value: value, "cannot|contains"),
    "list": (lambda value: [1, value], r" at \$\[1\]"),
    "dict": (lambda value: {"k": [value]}, r" at \$\.k\[0\]"),
    "odd key": (lambda value: {"a b": value}, r" at \$\['a b'\]"),
    "key": (lambda value: {value: 1}, r" at \$\["),
    "tuple": (lambda value: ((value,),), r" at \$\[0\]\[0\]"),
    "dataclass": (lambda value: Order("o", [], None, value), r" at \$\.meta"),
    "wrong field": (lambda value: Order(value, []), r" at \$\.id"),
}


@pytest.mark.parametrize(
    "annotation", [NO_ANNOTATION, Any, dict, list[Any], str, float, float | None, Order, Text | Call, Address], ids=repr
)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("value", "problem"), NOT_JSON, ids=brief)
def test_what_json_cannot_say_is_refused_with_its_place(annotation: Any, place: str, value: Any, problem: str) -> None:
    put, where = PLACES[place]
    if place == "key" and isinstance(value, Decimal) and value.is_snan():
        pytest.skip("has no hash")
    if "dataclass" in place or "field" in place:
        annotation = Order

    with pytest.raises(SerializationError, match=where) as caught:
        codec_for(annotation).snapshot(put(value))
    assert problem in str(caught.value)
    str(caught.value).encode()
    with pytest.raises(InvalidInputError):
        codec_for(annotation).validate(put(value))


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


WRAPPERS: list[Callable[[Any], Any]] = [
    lambda v: [v],
    lambda v: {"k": v},
    lambda v: (v,),
    lambda v: {1: v},
    lambda v: frozenset({v}),
]


@pytest.mark.parametrize("wrap", WRAPPERS, ids=["list", "dict", "tuple", "pairs", "frozenset"])
def test_values_may_be_nested_64_levels_and_no_more(wrap: Callable[[Any], Any]) -> None:
    assert_comes_back(UNTYPED, nested(64, wrap))
    for depth in (65, 100):
        for codec in (UNTYPED, codec_for(list), codec_for(dict[str, Any]), codec_for(Item)):
            with pytest.raises(SerializationError, match="nested deeper than 64 levels"):
                codec.snapshot(nested(depth, wrap))


@pytest.mark.parametrize("wrap", WRAPPERS[:3], ids=["list", "dict", "tuple"])
def test_absurd_nesting_is_no_recursion_error(wrap: Callable[[Any], Any]) -> None:
    with pytest.raises(SerializationError, match="nested deeper"):
        UNTYPED.snapshot(nested(50_000, wrap))
    with pytest.raises(SerializationError):
        UNTYPED.decode("[" * 100_000 + "]" * 100_000)


def test_a_value_that_contains_itself_is_refused() -> None:
    looped: list[Any] = []
    looped.append({"again": looped})
    node = Node(1)
    node.next = node

    for codec, value in ((UNTYPED, looped), (codec_for(list), looped), (codec_for(Node), node)):
        with pytest.raises(SerializationError, match="contains itself"):
            codec.snapshot(value)


def test_code_of_the_users_class_that_raises_is_a_serialization_error() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no comparing")

        __hash__ = None  # pyright: ignore[reportAssignmentType]

    @dataclass
    class Picky:
        a: int

        def __post_init__(self) -> None:
            if picky:
                raise LookupError("not again")

    picky = False
    value = Picky(1)
    picky = True

    with pytest.raises(SerializationError):
        UNTYPED.snapshot([Odd()])
    assert codec_for(Picky).snapshot(value)[1] == value
    with pytest.raises(SerializationError, match="LookupError: not again"):
        codec_for(Picky).decode('{"a":1}')


DOES_NOT_FIT: list[tuple[Any, str, str]] = [
    (Item, '{"sku":5}', r"\$\.sku: Expected `str`, got `int`"),
    (Order, '{"id":"o","items":[{"sku":"a","quantity":"x"}]}', r"\$\.items\[0\]\.quantity: Expected `int`, got `str`"),
    (Item, "{}", "missing required field `sku`"),
    (Item, "nope", "malformed"),
    (Address, '{"street":1}', r"\$\.street: Input should be a valid string"),
    (list[Address], '[{"street":"s"},{"street":1}]', r"\$\[1\]\.street: Input should be"),
    (Item, '{"$type":"instance","class":"Item","value":{}}', "lacks the field 'sku'"),
    (Item, '{"$type":"instance","class":"Popen","value":{}}', "an instance of 'Popen', which the annotation does not name"),
    (Item, '{"$type":"unheard-of"}', "unknown tag 'unheard-of'"),
    (Item, '{"$type":["a"]}', "unknown tag"),
    (Mixed, '{"$type":"instance","class":"Mixed","value":77}', "is no valid instance"),
    (NO_ANNOTATION, '{"$type":"instance","class":"Item","value":{"sku":"a"}}', "does not name"),
    (NO_ANNOTATION, '[{"a":{"$type":"decimal","value":"x"}}]', r"at \$\[0\]\.a is no valid decimal"),
    (NO_ANNOTATION, '{"$type":"datetime","value":"2031-01-01","zone":"../../etc/passwd"}', "is no valid datetime"),
    (Text | Call, '{"nothing":1}', "Fits none of"),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "text", "problem"), DOES_NOT_FIT)
def test_text_that_does_not_fit_is_refused_with_the_place(annotation: Any, text: str, problem: str) -> None:
    with pytest.raises(SerializationError, match=problem):
        codec_for(annotation).decode(text)


# ------------------------------------------------------------------------------------------------------------ input

ACCEPTED: list[tuple[Any, Any, Any]] = [
    (Item, {"sku": "a"}, Item("a")),
    (Item, {"sku": "a", "price": "1.10", "ignored": 1}, Item("a", 1, Decimal("1.10"))),
    (Item, {"sku": "a", "price": Decimal("1.10")}, Item("a", 1, Decimal("1.10"))),
    (Order, {"id": "o", "items": [{"sku": "a"}], "placed_at": MOMENT}, Order("o", [Item("a")], MOMENT)),
    (Order, Order("o", [{"sku": "a"}], BERLIN), Order("o", [Item("a")], BERLIN)),  # pyright: ignore[reportArgumentType]
    (Order, Order("o", [], None, {1: (2,)}), Order("o", [], None, {1: (2,)})),
    (list[Item], [{"sku": "a"}, Item("b")], [Item("a"), Item("b")]),
    (dict[str, Item], {"k": {"sku": "a"}}, {"k": Item("a")}),
    (datetime, "2031-05-04T03:02:01.987654Z", MOMENT),
    (set[int], [1, 2], {1, 2}),
    (list[int], (1, 2), [1, 2]),
    (dict[int, str], {"1": "a"}, {1: "a"}),
    (float, 1, 1.0),
    (Colour, "red", Colour.RED),
    (Mixed, 0.5, Mixed.HALF),
    (Address, {"street": "s", "since": "2031-01-01"}, Address(street="s", since=date(2031, 1, 1))),
    (Address, {"street": "s", "since": date(2031, 1, 1)}, Address(street="s", since=date(2031, 1, 1))),
    (Aliased, {"NAME": "n"}, Aliased(NAME="n")),
    (Derived, {"base": 2, "factor": 5}, Derived(2, 5)),
    (Text | Call, {"tool": "t"}, Call("t")),
    (Text | Call, {"text": "t"}, Text("t")),
    (Text | Call | None, None, None),
    (Message, {"parts": [{"text": "a"}, {"tool": "t", "text": "b"}]}, Message([Text("a"), Call("t", "b")])),
    (str | datetime, "2031-01-01", "2031-01-01"),
    (NO_ANNOTATION, {"a": (1, MOMENT)}, {"a": (1, MOMENT)}),
]


@pytest.mark.parametrize(("annotation", "given_input", "expected"), ACCEPTED, ids=brief)
def test_input_arrives_as_the_annotated_type(annotation: Any, given_input: Any, expected: Any) -> None:
    codec = codec_for(annotation)

    arrived = codec.decode(codec.validate(given_input))

    assert kinds(arrived) == kinds(expected)


def test_equal_inputs_have_equal_texts_whatever_their_form() -> None:
    codec = codec_for(Order)

    texts = {codec.validate(value) for value in (Order("o", [Item("a")]), {"items": [{"sku": "a"}], "id": "o"})}

    assert len(texts) == 1


BAD_INPUT: list[tuple[Any, Any, str]] = [
    (Item, {"sku": 7}, r"\$\.sku: Expected `str`, got `int`"),
    (
        Order,
        {"id": "o", "items": [{"sku": "a", "quantity": "2"}]},
        r"\$\.items\[0\]\.quantity: Expected `int`, got `str`",
    ),
    (Order, Order("o", [Item("a", "2")]), r"\$\.items\[0\]\.quantity: Expected `int`, got `str`"),  # pyright: ignore[reportArgumentType]
    (Text, Text(MOMENT), r"\$\.text: Expected `str`, got datetime"),  # pyright: ignore[reportArgumentType]
    (Item, {}, "missing required field `sku`"),
    (Item, 5, "Expected `object`, got `int`"),
    (Item, None, "Expected `object`, got `null`"),
    (Item, Text("t"), "missing required field `sku`"),
    (
        Item,
        BigItem("a"),
        r"A BigItem cannot be restored later because `Item` does not name that class\. Write `input: BigItem`",
    ),
    (int, "7", "Expected `int`, got `str`"),
    (int, True, "Expected `int`, got `bool`"),
    (None, 1, "Expected `null`, got `int`"),
    (Address, {"street": 5}, r"\$\.street: Input should be a valid string"),
    (list[Address], [{"street": "s"}, {}], r"\$\[1\]\.street: Field required"),
    (Text | Call, {"nothing": 1}, "Fits none of `Text`, `Call`"),
    (Message, {"parts": [{"text": 1}]}, r"\$\.parts\[0\]: Fits none of"),
    (Message, Message([Text(1)]), r"\$\.parts\[0\]\.text: Expected `str`, got `int`"),  # pyright: ignore[reportArgumentType]
    (Mixed, 77, "Expected `Mixed`, got 77"),
    (str | datetime, 5, "Fits none of"),
    (Order, {"id": "o", "items": [], "weight": float("nan")}, r"float nan at \$\.weight"),
    (Opaque, 5, "Expected `Opaque`, got 5"),
    (Opaque, Opaque(), "An Opaque cannot be restored later"),
    (
        NO_ANNOTATION,
        ITEM,
        r"An Item cannot be restored later because the input has no annotation\. Write `input: Item`\.",
    ),
]


@pytest.mark.parametrize(("annotation", "value", "problem"), BAD_INPUT, ids=brief)
def test_input_that_does_not_fit_is_refused_with_its_place(annotation: Any, value: Any, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^Invalid input: .*{problem}"):
        codec_for(annotation).validate(value)


def test_input_that_fits_several_classes_alike_is_refused() -> None:
    twin = dataclasses.make_dataclass("Twin", [("text", str)])

    with pytest.raises(InvalidInputError, match="Could be `Text` and `Twin` alike: pass an instance"):
        codec_for(Text | twin).validate({"text": "t"})
    assert_comes_back(codec_for(Text | twin), twin("t"))


# ------------------------------------------------------------------------------------------------------ of functions


async def returns_order() -> Order:
    raise NotImplementedError


def returns_awaitable() -> Awaitable[Order]:
    raise NotImplementedError


def returns_coroutine() -> Coroutine[Any, Any, list[Order]]:
    raise NotImplementedError


def returns_unknown() -> NoSuchName:  # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType]  # noqa: F821
    raise NotImplementedError


def returns_nothing() -> None: ...


def unannotated(order):  # pyright: ignore  # noqa: PGH003
    return order  # pyright: ignore[reportUnknownVariableType]


def partly_unknown(a: NoSuchName) -> Item:  # pyright: ignore  # noqa: F821, PGH003
    raise NotImplementedError


class Service:
    def load(self, key: str) -> Item:
        raise NotImplementedError

    @classmethod
    def make(cls) -> Item:
        raise NotImplementedError

    def me(self) -> Self:
        return self

    def __call__(self) -> Order:
        raise NotImplementedError


def wrapped(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        return fn(*args)

    return wrapper


FUNCTIONS: list[tuple[Any, Any]] = [
    (returns_order, Order), (returns_awaitable, Order), (returns_coroutine, list[Order]), (returns_nothing, None), (returns_unknown, Any),
    (unannotated, Any), (partly_unknown, Item), (lambda: 1, Any), (len, Any), (Service().load, Item), (Service.load, Item), (Service.make, Item), (Service().me, Any),
    (Service(), Order), (functools.partial(Service().load, "k"), Item), (functools.partial(functools.partial(returns_order)), Order),
    (functools.lru_cache(Service.load), Item), (wrapped(returns_order), Order), (wrapped(cast("Any", partly_unknown)), Item), (Item, Item), (Address, Address),
    (dict, dict), (asyncio.sleep, Any), (collections.namedtuple, Any), (uuid.UUID, uuid.UUID),
]  # fmt: skip


@pytest.mark.parametrize(("fn", "annotation"), FUNCTIONS, ids=brief)
def test_the_codec_of_a_function_is_that_of_its_return_annotation(fn: Any, annotation: Any) -> None:
    for _ in range(2):
        assert codec_of_function(fn) is codec_for(annotation)


def test_what_the_caller_says_goes_before_the_annotation() -> None:
    assert codec_of_function(returns_order, Item) is codec_for(Item)
    assert codec_of_function(returns_order, None) is codec_for(None)
    assert codec_of_function(returns_order, Any) is UNTYPED


def test_a_class_of_an_enclosing_function_is_found_and_not_mistaken_for_another() -> None:
    def program(extra: str) -> tuple[Any, Any]:
        local = dataclasses.make_dataclass("Local", [("a", int), (extra, int)])
        Local: Any = local  # noqa: N806

        def body() -> Local:  # pyright: ignore[reportInvalidTypeForm, reportUnknownParameterType]
            return Local(1, 2)

        return cast("Any", body), local

    for extra in ("b", "c"):
        body, local = program(extra)
        assert codec_of_function(body) is codec_for(local)
        assert codec_of_function(body).snapshot(body())[1] == local(1, 2)


def test_wrappers_of_one_decorator_are_told_apart() -> None:
    namespace: dict[str, Any] = {"Order": Item}
    exec("from __future__ import annotations\ndef load() -> Order: ...", namespace)  # noqa: S102

    assert codec_of_function(wrapped(returns_order)) is codec_for(Order)
    assert codec_of_function(wrapped(namespace["load"])) is codec_for(Item)


def test_a_local_class_that_text_cannot_reach_counts_as_no_annotation() -> None:
    @dataclass
    class Unreachable:
        a: int

    def body() -> Unreachable:
        raise NotImplementedError

    assert codec_of_function(body) is UNTYPED


def test_functions_made_anew_do_not_pile_up() -> None:
    from stepwell import codec

    def make(n: int) -> Callable[[], Item]:
        def body() -> Item:
            return Item(str(n))

        return body

    codec_of_function(make(0))
    before = len(codec._codecs_by_code), len(codec._codecs)
    for n in range(1000):
        assert codec_of_function(make(n)) is codec_for(Item)

    assert (len(codec._codecs_by_code), len(codec._codecs)) == before


def test_pydantic_is_not_imported_for_those_who_do_not_use_it() -> None:
    program = "import sys, stepwell.codec as c, dataclasses as d\nprint(c.codec_for(dict).encode({'a': 1}), 'pydantic' in sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        check=True,
        text=True,
    )

    assert done.stdout.strip() == '{"a":1} False'


# ---------------------------------------------------------------------------------------------------------- preview


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError

    @property
    def __dict__(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise RuntimeError


def test_small_arguments_are_shown_as_json() -> None:
    assert preview(()) == "[]"
    assert json.loads(preview((1, "a", None, ITEM))) == [1, "a", None, {"sku": "a", "quantity": 2, "price": "1.10"}]
    assert json.loads(preview((1,), {"b": Decimal(2)})) == {"args": [1], "kwargs": {"b": "2"}}
    assert json.loads(preview((Address(street="s"),))) == [{"street": "s", "since": None, "balance": "0"}]


def test_what_cannot_be_encoded_shows_as_its_type() -> None:
    assert json.loads(preview((Opaque(), [Broken()], {(1, 2): Opaque()}, len))) == [
        "<Opaque>",
        ["<Broken>"],
        {"<tuple>": "<Opaque>"},
        "<builtin_function_or_method>",
    ]


def test_a_secret_of_pydantic_stays_one() -> None:
    class Login(pydantic.BaseModel):
        password: pydantic.SecretStr

    assert "hunter2" not in preview((Login(password=pydantic.SecretStr("hunter2")), pydantic.SecretStr("hunter2")))


def test_long_parts_are_cut_with_a_mark() -> None:
    shown = json.loads(preview(("x" * 5000, list(range(1000)), b"y" * 5000)))

    assert shown[0].startswith("xxx")
    assert shown[0].endswith("… 4,700 more characters")
    assert shown[1][:3] == [0, 1, 2]
    assert shown[1][-1] == "… 980 more"
    assert shown[2].endswith("more bytes")


LARGE: list[Any] = [
    "x" * 3_000_000, b"x" * 3_000_000, list(range(100_000)), {str(n): n for n in range(100_000)}, [["ü" * 999] * 40] * 40,
    {"\u0000" * 9000: 1}, {("k" * 9000): "v" * 9000}, [Order("o" * 900, [ITEM] * 200)] * 200, 10**5000, [10**4000] * 10, {n: {n} for n in range(5000)},
]  # fmt: skip


@pytest.mark.parametrize("value", LARGE, ids=lambda value: type(value).__name__)
def test_a_preview_has_at_most_four_kibibytes(value: Any) -> None:
    for shown in (preview((value,)), preview((value,) * 30), preview((), {"k": value}), preview((1,) * 5000)):
        assert 2 < len(shown.encode()) <= 4096
        json.loads(shown)


def test_a_preview_can_be_stored_whatever_the_arguments() -> None:
    looped: list[Any] = []
    looped.append(looped)

    for value in (
        "a\0b",
        "\ud800",
        {"\0": "\ud800"},
        float("nan"),
        looped,
        nested(5000, lambda v: [v]),
        Broken(),
        Mixed.PAIR,
        Text("\ud800"),
    ):
        shown = preview((value,))
        assert "\\u0000" not in shown
        shown.encode()
        json.loads(shown)


@given(VALUES)
def test_a_preview_never_raises(value: Any) -> None:
    shown = preview((value, [value], {"k": value}))

    assert len(shown.encode()) <= 4096
    json.loads(shown)
