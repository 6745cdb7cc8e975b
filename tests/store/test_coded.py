"""Every field of every record is known as a payload or as something else, and turns are kept in line."""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any, cast

import msgspec
import pytest

from stepwell.errors import PayloadCodecError, SerializationError
from stepwell.store import records, transitions
from stepwell.store.coded import PARTS, PAYLOADS, CodedStore
from stepwell.store.open import OpenStore, open_store
from stepwell.store.protocol import Store, StoreReader
from stepwell.store.records import Applied, ClaimResult, Everything
from stepwell.store.transitions import EventSent, Exists, Received, Triggered, TriggeredMany
from tests.store.builders import NOW, SteppingClock, apply, claim, finished, get, new, register, start, step

pytestmark = pytest.mark.anyio

PLAIN = frozenset(
    [
        "app",
        "after",
        "awaits",
        "boot_id",
        "children",
        "cursor",
        "ending",
        "event",
        "execution",
        "execution_id",
        "executions",
        "flag",
        "host",
        "id",
        "id_prefix",
        "kind",
        "name",
        "needed_by",
        "next_cursor",
        "options",
        "owner",
        "parent_id",
        "parent_path",
        "path",
        "pid_started_at",
        "reason",
        "request",
        "status",
        "statuses",
        "stream",
        "tags",
        "undo",
        "version",
        "waits",
        "waiting_for",
        "worker",
        "workflow",
    ]
)
"""Fields of text that hold no payload. A new field belongs either here or into `PAYLOADS`."""
PLAIN_PARAMETERS = frozenset(
    [
        "after",
        "expected_run",
        "from_step",
        "name",
        "new_id",
        "request",
        "path",
        "stream",
        "waits",
        "execution_id",
        "ids",
        "reaper_id",
        "reason",
        "wanted",
        "worker_id",
        "workflows",
    ]
)
"""Parameters of text that hold no payload. Another one must be encoded by hand, and be named in `CODED_PARAMETERS`."""
CODED_PARAMETERS = frozenset(["input"])
BY_HAND = {(Applied, "verdicts"), (ClaimResult, "claimed"), (Everything, "tables")}
"""Fields of records that `CodedStore` decodes itself."""


def record_types() -> Iterator[type]:
    for module in (transitions, records):
        yield from (cls for cls in vars(module).values() if is_record(cls) and cls.__module__ == module.__name__)


def is_record(cls: Any) -> bool:
    return inspect.isclass(cls) and issubclass(cls, msgspec.Struct | tuple) and cls not in (msgspec.Struct, tuple)


def named_in(annotation: Any) -> set[object]:
    """The classes that an annotation consists of."""
    if isinstance(annotation, list):  # the parameters of a Callable
        annotation = tuple[*cast("list[Any]", annotation)]
    parts = typing.get_args(annotation)
    return {found for part in parts for found in named_in(part)} or {annotation}


def hints_of(cls: type, module: ModuleType) -> dict[str, Any]:
    return typing.get_type_hints(cls, vars(module) | vars(records) | vars(transitions))


@pytest.mark.parametrize("cls", list(record_types()), ids=lambda cls: cls.__name__)
def test_each_field_is_known_as_a_payload_or_as_something_else(cls: type) -> None:
    unknown: list[str] = []
    for name, hint in hints_of(cls, records).items():
        classes = named_in(hint)
        holds_records = any(is_record(each) for each in classes)
        if holds_records and (cls, name) not in BY_HAND and name not in PARTS.get(cls, ()):
            unknown.append(f"{name} holds records: name it in PARTS")
        if (cls, name) in BY_HAND:
            continue
        if str in classes and not holds_records and (name in PLAIN) == (name in PAYLOADS.get(cls, ())):
            unknown.append(f"{name} is text: name it either in PAYLOADS or in this test's PLAIN")

    assert unknown == []
    assert {*PAYLOADS.get(cls, ()), *PARTS.get(cls, ())} <= set(typing.get_type_hints(cls))


@pytest.mark.parametrize("protocol", [Store, StoreReader], ids=lambda cls: cls.__name__)
def test_each_method_is_there_and_its_texts_are_known(protocol: type) -> None:
    for name, method in vars(protocol).items():
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        assert inspect.isfunction(getattr(CodedStore, name, None)), name
        own = inspect.signature(getattr(CodedStore, name))
        assert list(own.parameters) == list(inspect.signature(method).parameters), name
        for parameter, hint in typing.get_type_hints(method).items():
            if parameter != "return" and str in named_in(hint):
                assert parameter in PLAIN_PARAMETERS | CODED_PARAMETERS, f"{name}({parameter}=…)"


# ------------------------------------------------------------------------------------------------------ behaviour


class Picky:
    """A codec that takes a turn of the loop, and refuses what it is told to."""

    def __init__(self) -> None:
        self.refused = ""
        self.gate = asyncio.Event()
        self.gate.set()

    async def encode(self, data: bytes) -> bytes:
        await self.gate.wait()
        self._check(data)
        return data[::-1]

    def decode(self, data: bytes) -> bytes:
        self._check(data[::-1])
        return data[::-1]

    def _check(self, data: bytes) -> None:
        if self.refused and self.refused.encode() in data:
            raise OSError("the key server is away")


class Both:
    """The same database with and without the codec."""

    def __init__(self, plain: OpenStore, clock: SteppingClock) -> None:
        self.plain = plain
        self.codec = Picky()
        self.store = CodedStore(plain, self.codec, clock)


@pytest.fixture
async def both(anyio_backend: str, clock: SteppingClock) -> Any:
    async with open_store("sqlite://", clock=clock) as opened:
        yield Both(opened, clock)


async def test_what_is_stored_is_json_that_tells_what_it_is(both: Both) -> None:
    await register(both.store)
    await start(both.store, "e")
    await apply(both.store, step(output='"x"'), step(path="b", status="failed", output=None, error='{"type":"E"}'))

    raw = await both.plain.steps("e")
    assert all(
        '{"$type":"coded","value":"' in text for row in raw for text in (row.input, row.output or row.error) if text
    )
    assert [(row.output, row.error) for row in await both.store.steps("e")] == [('"x"', None), (None, '{"type":"E"}')]
    assert (await both.store.steps("e"))[1].attempts[0].error == '{"type":"E"}'


async def test_what_cannot_be_encoded_is_refused_alone(both: Both) -> None:
    await register(both.store)
    await start(both.store, "e", "f")
    both.codec.refused = "bad"

    verdicts = await apply(
        both.store,
        step("e", output='"bad"'),
        step("f"),
        Triggered(new("g", input='"bad"')),
        TriggeredMany((new("h"), new("i", input='"bad"'))),
        EventSent("f", "go", '"bad"', "1", NOW),
        finished("e"),
    )

    assert [type(verdict) for verdict in verdicts] == [
        PayloadCodecError,
        type(None),
        *[PayloadCodecError] * 3,
        type(None),
    ]
    assert "The StepFinished of execution 'e' cannot be stored: the codec's encode() raised OSError: the key" in str(
        verdicts[0]
    )
    assert await both.store.steps("e") == []
    assert await both.store.execution("h") is None
    assert (await get(both.store, "e")).status == "completed"


async def test_a_batch_of_which_nothing_can_be_encoded_is_answered(both: Both) -> None:
    both.codec.refused = "n"

    [verdict] = await apply(both.store, Triggered(new("e")), by=None)

    assert isinstance(verdict, SerializationError)


@pytest.mark.parametrize("given", [None, "text", 7], ids=["nothing", "text", "number"])
async def test_a_codec_that_does_not_give_bytes_is_told_so(both: Both, given: Any) -> None:
    both.codec.encode = lambda data: given

    [verdict] = await apply(both.store, Triggered(new("e")), by=None)

    assert f"encode() gave a {type(given).__name__} instead of bytes" in str(verdict)


async def test_what_cannot_be_decoded_goes_back_to_the_queue_alone(both: Both) -> None:
    await register(both.store)
    await start(both.store, "e", "f", "g")
    await apply(both.store, step("e", output='"bad"'), step("f"), step("g", status="failed", error='"bad"'))
    await both.store.deregister("w")
    await register(both.store)
    both.codec.refused = "bad"

    claimed = await claim(both.store)

    assert [each.id for each in claimed] == ["f"]
    for id in ("e", "g"):
        row = await both.plain.execution(id)
        assert row is not None
        assert (row.status, row.owner) == ("queued", None)
        assert "decode() raised OSError: the key server is away" in str(row.waiting_for)
    both.codec.refused = ""
    assert [row.output for row in await both.store.steps("e")] == ['"bad"']


async def test_loading_gives_back_what_cannot_be_decoded(both: Both) -> None:
    await register(both.store)
    await start(both.store, "e")
    await apply(both.store, step(output='"bad"'))
    both.codec.refused = "bad"

    assert await both.store.load("w", ["e"]) == []

    assert (await get(both.plain, "e")).status == "queued"


async def test_people_see_why_something_cannot_be_read(both: Both) -> None:
    await register(both.store)
    await start(both.store, "e")
    await apply(both.store, step(output='"bad"'), finished())
    both.codec.refused = "bad"

    [row] = await both.store.steps("e")

    assert row.status == "completed"
    assert '"$type":"unreadable"' in str(row.output)
    assert "the key server is away" in str(row.output)


async def test_an_answer_that_cannot_be_decoded_is_an_error_and_stays_stored(both: Both) -> None:
    await register(both.store)
    await start(both.store, "e")
    await apply(both.store, EventSent("e", "go", '"bad"', "1", NOW))
    listened = transitions.Listened("e", 1, 1, "l", 1, None, "go", NOW, NOW, None, True, None, False)
    both.codec.refused = "bad"

    [verdict] = await apply(both.store, listened)

    assert isinstance(verdict, PayloadCodecError)
    both.codec.refused = ""
    assert await apply(both.store, listened) == [Received('"bad"')]


async def test_what_was_changed_by_hand_is_not_taken_for_something_else(both: Both) -> None:
    await apply(both.plain, Triggered(new("e", input='{"$type":"coded","value":"?"}')), by=None)
    await apply(both.plain, Triggered(new("f", input='{"$type":"coded","value":"AAAA"}')), by=None)

    for id in ("e", "f"):
        assert "gave something else than encode() was given" in str((await get(both.store, id)).input)


async def test_the_same_input_is_the_same_request(both: Both) -> None:
    await apply(both.plain, Triggered(new("e", request="r")), by=None)

    assert await apply(both.store, Triggered(new("e", request="s")), by=None) == [Exists("e", same=True)]
    assert await apply(both.store, Triggered(new("e", request="s", input="2")), by=None) == [Exists("e", same=False)]


async def test_what_is_asked_later_is_answered_later_although_encoding_takes_time(both: Both) -> None:
    await register(both.store)
    both.codec.gate.clear()
    written = both.store.apply([Triggered(new("e", owner="w"))], "w", 0)
    given_up = asyncio.create_task(both.store.owned("w"))
    owned = asyncio.create_task(both.store.owned("w"))
    await asyncio.sleep(0)
    given_up.cancel()
    later = both.store.apply([step("e")], "w", 0)
    await asyncio.sleep(0.01)
    assert not owned.done()

    both.codec.gate.set()

    assert [id for id, *_ in (await owned).executions] == ["e"]
    assert (await written).verdicts == (await later).verdicts == [None]
