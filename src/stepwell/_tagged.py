"""Values that plain JSON cannot say, as JSON that says what it is.

Such a value stands in an object `{"$type": "decimal", "value": "1.50"}`; all around it stays plain JSON. An object of
the user's own with the key `$type` is written as pairs, so that it cannot be taken for one of ours. Instances carry a
bare class name, which is only ever looked up among the classes that the code's own annotation names: nothing is
imported, and no class is made that the annotation does not allow.
"""

from __future__ import annotations

import base64
import json
import math
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

import msgspec

from stepwell._coded import NO_CODEC
from stepwell._keys import secret_keys
from stepwell._same import MAX_DEPTH, zone_of
from stepwell._shape import MISSING, Classes, Shape, shape_of
from stepwell.errors import PayloadCodecError
from stepwell.secret import LOST, MASK, Secret, peek

TAG: Final = "$type"
TAG_TEXT: Final = '"$type"'
"""Text in which this does not occur has no tags."""
_SEALED: Final = '{"$type":"secret",'

_STR: Final = frozenset((str,))
_MAX_BITS: Final = 14_284
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


class Refused(Exception):  # noqa: N818 - never leaves the codec
    """A value cannot be stored or read back. `place` is where it is, and grows on the way up.

    `subject` begins the sentence that `problem` ends; without one the problem is a sentence of its own. `cls` is set
    when the value's class is what is in the way.
    """

    def __init__(self, subject: str, problem: str, cls: type | None = None) -> None:
        super().__init__(subject, problem)
        self.subject = subject
        self.problem = problem
        self.cls = cls
        self.place = ""

    def __str__(self) -> str:
        place = f"${self.place}" if len(self.place) <= 120 else f"${self.place[:117]}..."
        if not self.subject:
            return f"{place}: {self.problem}"
        return f"{self.subject} at {place} {self.problem}" if self.place else f"{self.subject} {self.problem}"

    def under(self, step: str) -> Refused:
        self.place = step + self.place
        return self


# ----------------------------------------------------------------------------------------------------------- writing


def to_tagged(value: Any, classes: Classes, depth: int = MAX_DEPTH) -> Any:
    """The value as JSON values, with tags where JSON has no word for it.

    Raises:
        Refused: It cannot be said so that it comes back.
    """
    cls = type(cast("object", value))
    if cls is str:
        return _text(value)
    if cls is bool or value is None:
        return value
    if cls is int:
        if value.bit_length() > _MAX_BITS:
            raise Refused("An integer", "of more than 4,300 digits cannot be stored; use text instead")
        return value
    if cls is float:
        if not math.isfinite(value):
            raise Refused(f"The float {value!r}", "cannot be stored; use None or text instead")
        return value
    if not depth:
        raise Refused("The value", f"is nested deeper than {MAX_DEPTH} levels, or contains itself")
    write = _WRITE.get(cls)
    if write is not None:
        return write(value, classes, depth - 1)
    if classes and (name := classes.name_of(cls)) is not None:
        return _write_instance(value, name, classes, depth - 1)
    raise Refused(a(cls), "cannot be restored later", cls)


def _text(value: str) -> str:
    if "\0" in value:
        raise Refused("Text", "contains the character \\u0000, which databases do not store; take it out")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            problem = f"contains a lone surrogate, {value[error.start]!a}; decode with errors='replace', or keep bytes"
            raise Refused("Text", problem) from None
    return value


def _write_list(value: Iterable[object], classes: Classes, depth: int) -> list[Any]:
    made: list[Any] = []
    for item in value:
        try:
            made.append(to_tagged(item, classes, depth))
        except Refused as refused:
            raise refused.under(f"[{len(made)}]") from None
    return made


def _write_dict(value: dict[object, object], classes: Classes, depth: int) -> Any:
    if TAG in value or not _STR.issuperset(map(type, value)):
        return _tag("dict", [_write_pair(key, item, classes, depth) for key, item in value.items()])
    return _write_fields(cast("dict[str, object]", value), classes, depth)


def _write_pair(key: object, item: object, classes: Classes, depth: int) -> list[Any]:
    try:
        return [to_tagged(key, classes, depth), to_tagged(item, classes, depth)]
    except Refused as refused:
        raise refused.under(f"[{shown(key)}]") from None


def _write_fields(value: Mapping[str, object], classes: Classes, depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, item in value.items():
        try:
            made[_text(key)] = to_tagged(item, classes, depth)
        except Refused as refused:
            raise refused.under(f".{key}" if key.isidentifier() else f"[{shown(key)}]") from None
    return made


def _write_set(value: Iterable[object], classes: Classes, depth: int) -> list[Any]:
    return sorted((to_tagged(item, classes, depth) for item in value), key=_encode)


def _write_instance(value: Any, name: str, classes: Classes, depth: int) -> Any:
    if isinstance(value, Enum):
        return _tag("instance", to_tagged(value.value, classes, depth), {"class": name})
    shape = cast("Shape", shape_of(type(value)))
    fields = {key: item for key, item in zip(shape.fields, shape.read(value), strict=True) if item is not MISSING}
    return _tag("instance", _write_fields(fields, classes, depth), {"class": name})


def _write_datetime(value: datetime, _classes: Classes, _depth: int) -> Any:
    zone = zone_of(value)
    more: dict[str, Any] = {} if zone is None else {"zone": zone}
    if value.fold:
        more["fold"] = 1
    return _tag("datetime", value.isoformat(), more)


def _write_time(value: time, _classes: Classes, _depth: int) -> Any:
    return _tag("time", value.isoformat(), {"fold": 1} if value.fold else {})


def _write_decimal(value: Decimal, _classes: Classes, _depth: int) -> Any:
    if not value.is_finite():
        raise Refused(repr(value), "cannot be stored; use None or text instead")
    return _tag("decimal", str(value))


def _write_complex(value: complex, classes: Classes, depth: int) -> Any:
    return _tag("complex", [to_tagged(value.real, classes, depth), to_tagged(value.imag, classes, depth)])


class Vault:
    """Writes and reads secrets for encoders that follow an annotation, pydantic's among them."""

    def __init__(self, classes: Classes) -> None:
        self._classes = classes
        self.written = 0

    def write_secret(self, secret: Secret[Any]) -> Any:
        """The stored form of a secret."""
        self.written += 1
        return _write_secret(secret, self._classes, MAX_DEPTH - 1)

    def read_secret(self, raw: Any) -> Secret[Any] | None:
        """The secret of a stored form; None when it is something else."""
        if not isinstance(raw, dict) or cast("dict[str, Any]", raw).get(TAG) != "secret":
            return None
        return cast("Secret[Any]", from_tagged(raw, self._classes))


def has_only_secrets(text: str) -> bool:
    """Whether all tags of the text are those of secrets."""
    return text.count(TAG_TEXT) == text.count(_SEALED)


def _write_secret(value: Secret[Any], classes: Classes, depth: int) -> Any:
    if value is LOST:
        return _tag("secret", None)
    try:
        held = _encode(to_tagged(peek(value), classes, depth))
    except Refused as refused:
        # What is inside is nobody's business, not even where it stands.
        raise Refused("The value of a Secret", refused.problem, refused.cls) from None
    return _tag("secret", secret_keys().encrypt(held))


def _tag(name: str, value: Any, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {TAG: name, **(more or {}), "value": value}


def as_is(value: Any) -> dict[str, Any]:
    """Mark JSON that is to be taken as it stands, whatever the annotation says."""
    return _tag("as-is", value)


def _writer(name: str, convert: Callable[[Any], Any]) -> Callable[[Any, Classes, int], Any]:
    return lambda value, _classes, _depth: _tag(name, convert(value))


def _writer_of_items(
    name: str, convert: Callable[[Any, Classes, int], list[Any]]
) -> Callable[[Any, Classes, int], Any]:
    return lambda value, classes, depth: _tag(name, convert(value, classes, depth))


def _base64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


_WRITE: Final[dict[type, Callable[[Any, Classes, int], Any]]] = {
    list: _write_list,
    dict: _write_dict,
    tuple: _writer_of_items("tuple", _write_list),
    set: _writer_of_items("set", _write_set),
    frozenset: _writer_of_items("frozenset", _write_set),
    datetime: _write_datetime,
    date: _writer("date", date.isoformat),
    time: _write_time,
    timedelta: _writer("timedelta", msgspec.to_builtins),
    Decimal: _write_decimal,
    uuid.UUID: _writer("uuid", str),
    bytes: _writer("bytes", _base64),
    bytearray: _writer("bytearray", _base64),
    complex: _write_complex,
    Secret: _write_secret,
}


# ----------------------------------------------------------------------------------------------------------- reading


def from_tagged(raw: Any, classes: Classes) -> Any:
    """The value that `to_tagged` was given.

    Raises:
        Refused: A tag is unknown, or does not fit the classes that the annotation names.
    """
    if isinstance(raw, list):
        return _read_list(cast("list[object]", raw), classes)
    return _read_object(cast("dict[str, Any]", raw), classes) if isinstance(raw, dict) else raw


def _read_list(raw: list[object], classes: Classes) -> list[object]:
    made: list[object] = []
    for item in raw:
        try:
            made.append(from_tagged(item, classes))
        except Refused as refused:
            raise refused.under(f"[{len(made)}]") from None
    return made


def _read_object(raw: dict[str, Any], classes: Classes) -> Any:
    if TAG not in raw:
        return _read_fields(raw, classes)
    tag: object = raw[TAG]
    read = _READ.get(tag) if isinstance(tag, str) else None
    if read is None:
        raise Refused("The value", f"has the unknown tag {shown(raw[TAG])}")
    try:
        return read(raw, classes)
    except (TypeError, ValueError, KeyError, ArithmeticError, AttributeError, OSError) as error:
        raise Refused("The value", f"is no valid {raw[TAG]} ({type(error).__name__}: {error})") from error


def _read_fields(raw: dict[str, Any], classes: Classes) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, item in raw.items():
        try:
            made[key] = from_tagged(item, classes)
        except Refused as refused:
            raise refused.under(f".{key}") from None
    return made


def _read_instance(raw: dict[str, Any], classes: Classes) -> object:
    tagged_with = raw["class"]
    cls: Any = classes.find(tagged_with)
    if cls is None:
        raise Refused(
            "The value", f"is an instance of {shown(tagged_with)}, which the annotation does not name (any more)"
        )
    shape = shape_of(cls)
    if shape is None:
        return cls(from_tagged(raw["value"], classes))
    stored = _read_fields(raw["value"], classes)
    defaults = shape.defaults(cls)
    fields: dict[str, object] = {}
    for name in shape.fields:
        if name in stored:
            fields[name] = stored[name]
        elif name not in defaults:
            raise Refused("The value", f"lacks the field {name!r} of {cls.__name__}")
        elif (default := defaults[name]) is not None:
            fields[name] = default()
    return shape.build(cls, fields)


def _read_datetime(raw: dict[str, Any], _classes: Classes) -> datetime:
    value = datetime.fromisoformat(raw["value"]).replace(fold=raw.get("fold", 0))
    if "zone" not in raw:
        return value
    zone = ZoneInfo(raw["zone"])
    local = value.replace(tzinfo=zone)
    # The rules of the zone may have changed since: the moment counts, not what the clock showed.
    return local if local.utcoffset() == value.utcoffset() else value.astimezone(zone)


def _read_secret(raw: dict[str, Any], classes: Classes) -> Secret[Any]:
    stored = raw["value"]
    if stored is None:
        return LOST
    held = _decode(secret_keys().decrypt(stored))
    try:
        return Secret(from_tagged(held, classes))
    except Refused as refused:
        raise Refused("The value of a Secret", refused.problem) from None


def _read_unreadable(raw: dict[str, Any], _classes: Classes) -> Any:
    problem = NO_CODEC if raw[TAG] == "coded" else raw["value"]
    raise PayloadCodecError(f"A stored payload cannot be read: {problem}.")


def _reader(convert: Callable[[Any], Any]) -> Callable[[dict[str, Any], Classes], Any]:
    return lambda raw, _classes: convert(raw["value"])


def _reader_of_items(convert: Callable[[list[Any]], Any]) -> Callable[[dict[str, Any], Classes], Any]:
    return lambda raw, classes: convert(from_tagged(raw["value"], classes))


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_READ: Final[dict[str, Callable[[dict[str, Any], Classes], Any]]] = {
    "as-is": lambda raw, classes: from_tagged(raw["value"], classes),
    "instance": _read_instance,
    "dict": _reader_of_items(dict),
    "tuple": _reader_of_items(tuple),
    "set": _reader_of_items(set),
    "frozenset": _reader_of_items(frozenset),
    "datetime": _read_datetime,
    "date": _reader(date.fromisoformat),
    "time": lambda raw, _classes: time.fromisoformat(raw["value"]).replace(fold=raw.get("fold", 0)),
    "timedelta": _reader(lambda text: msgspec.convert(text, timedelta)),
    "decimal": _reader(Decimal),
    "uuid": _reader(uuid.UUID),
    "bytes": _reader(_from_base64),
    "bytearray": _reader(lambda text: bytearray(_from_base64(text))),
    "complex": _reader(lambda parts: complex(*parts)),
    "secret": _read_secret,
    "coded": _read_unreadable,
    "unreadable": _read_unreadable,
}


def for_people(text: str) -> Any:
    """The JSON value of a stored text, with a mask in the place of each secret; needs no key."""
    return json.loads(text, object_hook=_masked) if TAG_TEXT in text else json.loads(text)


def _masked(raw: dict[str, Any]) -> Any:
    match raw.get(TAG):
        case "secret":
            return MASK
        case "coded":
            return f"<cannot be read: {NO_CODEC}>"
        case "unreadable":
            return f"<cannot be read: {raw['value']}>"
        case _:
            return raw


def a(cls: type) -> str:
    """The class with its article, to begin a sentence."""
    return f"{'An' if cls.__name__[:1].lower() in 'aeio' else 'A'} {cls.__name__}"


def shown(value: object) -> str:
    """The repr of a value in a message, cut, and safe for any terminal and database."""
    try:
        text = ascii(value)
    except Exception:  # a repr of the user's own
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."
