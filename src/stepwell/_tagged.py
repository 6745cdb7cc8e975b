"""Values that plain JSON cannot say, as JSON that says what it is.

Such a value stands in an object `{"$type": "decimal", "value": "1.50"}`; all around it stays plain JSON. An object of the
user's own with the key `$type` is written as pairs, so that it cannot be taken for one of ours. Instances of classes
carry a bare class name, which is only ever looked up among the classes that the code's own annotation names: nothing is
imported, and no class is called that the annotation does not allow.
"""

from __future__ import annotations

import base64
import dataclasses
import math
import sys
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from operator import attrgetter
from types import NoneType
from typing import Any, Final, NamedTuple, cast
from zoneinfo import ZoneInfo

import msgspec

MAX_DEPTH: Final = 64
TAG: Final = "$type"
TAG_TEXT: Final = '"$type"'

_SCALARS: Final = frozenset((str, int, bool, NoneType, float))
_EXACT: Final = frozenset((*_SCALARS, bytes, bytearray, date, timedelta, uuid.UUID))
_STR: Final = frozenset((str,))
_MISSING: Final = object()
_encode: Final = msgspec.json.Encoder().encode


class Refused(Exception):  # noqa: N818 - never leaves the codec
    """A value cannot be stored; `path` grows on the way up."""

    def __init__(self, problem: str, subject: type | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.subject = subject
        self.path = ""

    def under(self, step: str) -> Refused:
        self.path = step + self.path
        return self


# ------------------------------------------------------------------------------------------------ classes with fields


class Shape(NamedTuple):
    """How instances of a class are taken apart and put together without running their `__init__`."""

    fields: tuple[str, ...]
    read: Callable[[Any], tuple[object, ...]]
    build: Callable[[type, dict[str, object]], object]
    defaults: Callable[[type], dict[str, Callable[[], object]]]


_shapes: Final[dict[type, Shape | None]] = {}


def shape_of(cls: type) -> Shape | None:
    """The shape of a dataclass, msgspec Struct, attrs class, NamedTuple or pydantic model; else None."""
    try:
        return _shapes[cls]
    except KeyError:
        if len(_shapes) >= 4096:
            _shapes.clear()
        shape = _shapes[cls] = _shape(cls)
        return shape


def is_pydantic(cls: type) -> bool:
    """Whether the class is a pydantic model; pydantic is not imported to find out."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


def _shape(cls: Any) -> Shape | None:
    if is_pydantic(cls):
        return Shape(("fields", "extra", "private"), _model_state, _build_model, _no_defaults)
    if dataclasses.is_dataclass(cls):
        return _plain_shape(tuple(field.name for field in dataclasses.fields(cls)), _build_object, _dataclass_defaults)
    if issubclass(cls, msgspec.Struct):
        return _plain_shape(cls.__struct_fields__, _build_struct, _no_defaults)
    if hasattr(cls, "__attrs_attrs__"):
        return _plain_shape(tuple(field.name for field in cls.__attrs_attrs__), _build_object, _no_defaults)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return Shape(cls._fields, tuple, _build_named_tuple, _named_tuple_defaults)
    return None


def _plain_shape(
    names: tuple[str, ...],
    build: Callable[[type, dict[str, object]], object],
    defaults: Callable[[type], dict[str, Callable[[], object]]],
) -> Shape:
    def read(value: object) -> tuple[object, ...]:
        return tuple(getattr(value, name, _MISSING) for name in names)

    if len(names) < 2:
        return Shape(names, read, build, defaults)
    fast = attrgetter(*names)

    def read_fast(value: object) -> tuple[object, ...]:
        try:
            return fast(value)
        except AttributeError:
            return read(value)

    return Shape(names, read_fast, build, defaults)


def _build_object(cls: type, fields: dict[str, object]) -> object:
    made = cls.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _build_struct(cls: type, fields: dict[str, object]) -> object:
    return cls(**fields)


def _build_named_tuple(cls: type, fields: dict[str, object]) -> object:
    return tuple.__new__(cls, [fields[name] for name in cast("Any", cls)._fields])


def _build_model(cls: type, state: dict[str, object]) -> object:
    fields = cast("dict[str, object]", state["fields"])
    made = cls.__new__(cls)
    cast("Any", made).__setstate__(
        {
            "__dict__": fields,
            "__pydantic_fields_set__": set(fields),
            "__pydantic_extra__": state["extra"],
            "__pydantic_private__": state["private"],
        }
    )
    return made


def _model_state(model: Any) -> tuple[object, ...]:
    known = type(model).__pydantic_fields__
    state = model.__getstate__()
    fields = {name: value for name, value in state["__dict__"].items() if name in known}
    return fields, state["__pydantic_extra__"], state["__pydantic_private__"]


def _dataclass_defaults(cls: type) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            found[field.name] = lambda value=field.default: value
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory
    return found


def _named_tuple_defaults(cls: Any) -> dict[str, Callable[[], object]]:
    return {name: lambda value=value: value for name, value in cls._field_defaults.items()}


def _no_defaults(cls: type) -> dict[str, Callable[[], object]]:
    return {}


class Classes:
    """The classes that an annotation names, directly or through the fields of others."""

    def __init__(self, annotations: Iterable[object] = ()) -> None:
        self.has_sets = False
        self.has_dicts = False
        self._seen: set[int] = set()
        self._kept: list[object] = []
        self._named: dict[str, list[type]] = {}
        for annotation in annotations:
            self._visit(annotation)

    def __bool__(self) -> bool:
        return bool(self._named)

    def name_of(self, cls: type) -> str | None:
        """What instances of the class are tagged with, None when the annotation does not name it."""
        namesakes = self._named.get(cls.__name__, ())
        if cls not in namesakes:
            return None
        return cls.__name__ if len(namesakes) == 1 else _dotted(cls)

    def find(self, name: str) -> type | None:
        namesakes = self._named.get(name, ())
        if len(namesakes) == 1:
            return namesakes[0]
        matching = [cls for same_name in self._named.values() for cls in same_name if _dotted(cls) == name]
        return matching[0] if len(matching) == 1 else None

    def _visit(self, annotation: Any) -> None:
        if id(annotation) in self._seen:
            return
        self._seen.add(id(annotation))
        self._kept.append(annotation)
        origin = typing.get_origin(annotation) or annotation
        for argument in typing.get_args(annotation):
            self._visit(argument)
        if hasattr(annotation, "__supertype__"):
            self._visit(annotation.__supertype__)
        elif hasattr(annotation, "__value__"):
            self._visit(annotation.__value__)
        elif annotation is Any or annotation is object or isinstance(annotation, (str, typing.TypeVar)):
            self.has_dicts = True
        if isinstance(origin, type):
            self._visit_class(origin)

    def _visit_class(self, cls: type) -> None:
        self.has_sets |= issubclass(cls, (set, frozenset, typing.AbstractSet))
        self.has_dicts |= issubclass(cls, (dict, typing.Mapping))
        if issubclass(cls, Enum) or shape_of(cls) is not None:
            self._named.setdefault(cls.__name__, []).append(cls)
        elif not typing.is_typeddict(cls):
            return
        if not issubclass(cls, Enum):
            for hint in field_hints(cls).values():
                self._visit(hint)


def field_hints(cls: type) -> dict[str, Any]:
    """The annotations of a class as objects; those that cannot be resolved are `Any`."""
    try:
        return typing.get_type_hints(cls)
    except Exception:  # noqa: BLE001 - names that exist only for type checkers
        pass
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, hint in getattr(base, "__annotations__", {}).items():
            probe: Any = type("probe", (), {"__annotations__": {name: hint}, "__module__": base.__module__})
            try:
                hints.update(typing.get_type_hints(probe, localns=vars(base)))
            except Exception:  # noqa: BLE001 - see above
                hints[name] = Any
    return hints


def _dotted(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# --------------------------------------------------------------------------------------------------------- comparing


def is_plain(value: object, depth: int = MAX_DEPTH) -> bool:
    """Whether the value is made of nothing but JSON's own types, exactly, with text as keys, and not too deep."""
    cls = type(value)
    if cls is dict:
        fields = cast("dict[object, object]", value)
        if not _STR.issuperset(map(type, fields)):
            return False
        values: Iterable[object] = fields.values()
    elif cls is list:
        values = cast("list[object]", value)
    else:
        return cls in _SCALARS
    if not depth:
        return False
    for item in values:
        if type(item) not in _SCALARS and not is_plain(item, depth - 1):
            return False
    return True


def is_same(a: object, b: object, depth: int = MAX_DEPTH) -> bool:
    """Whether `b` can stand for `a`: equal, of the same types all through, and not too deep.

    An int may come back as the equal float: that happens only where the annotation says float.
    """
    cls = type(a)
    if cls is not type(b):
        return cls is int and type(b) is float and a == b
    if cls in _EXACT:
        return a == b
    if not depth:
        return False
    compare = _COMPARE.get(cls)
    if compare is not None:
        return compare(a, b, depth - 1)
    if isinstance(a, Enum):
        return a is b
    shape = shape_of(cls)
    if shape is not None:
        return _same_items(shape.read(a), shape.read(b), depth - 1)
    return bool(a == b)


def _same_items(xs: Iterable[object], ys: Iterable[object], depth: int) -> bool:
    types = [*map(type, xs)]
    if types == [*map(type, ys)] and _EXACT.issuperset(types):
        return [*xs] == [*ys]
    xs, ys = [*xs], [*ys]
    if len(xs) != len(ys):
        return False
    for x, y in zip(xs, ys, strict=True):
        if not is_same(x, y, depth):
            return False
    return True


def _same_dict(a: dict[object, object], b: dict[object, object], depth: int) -> bool:
    return _same_items(a, b, depth) and _same_items(a.values(), b.values(), depth)


def _same_set(a: set[object], b: set[object], _depth: int) -> bool:
    return a == b and sorted(id(type(x)) for x in a) == sorted(id(type(x)) for x in b)


def _same_decimal(a: Decimal, b: Decimal, _depth: int) -> bool:
    return a.is_finite() and b.is_finite() and a.as_tuple() == b.as_tuple()


def _same_datetime(a: datetime, b: datetime, _depth: int) -> bool:
    return (
        a.replace(tzinfo=None) == b.replace(tzinfo=None)
        and a.fold == b.fold
        and a.utcoffset() == b.utcoffset()
        and _zone(a) == _zone(b)
    )


def _same_time(a: time, b: time, _depth: int) -> bool:
    return (
        a.replace(tzinfo=None) == b.replace(tzinfo=None)
        and a.fold == b.fold
        and a.utcoffset() == b.utcoffset()
        and (a.tzinfo is None) == (b.tzinfo is None)
    )


def _zone(value: datetime) -> str | None:
    return value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else None


_COMPARE: Final[dict[type, Callable[[Any, Any, int], bool]]] = {
    list: _same_items,
    tuple: _same_items,
    dict: _same_dict,
    set: _same_set,
    frozenset: _same_set,
    Decimal: _same_decimal,
    datetime: _same_datetime,
    time: _same_time,
}


# ----------------------------------------------------------------------------------------------------------- writing


def to_tagged(value: Any, classes: Classes, depth: int = MAX_DEPTH) -> Any:
    """The value as JSON values, with tags where JSON has no word for it.

    Raises:
        Refused: It cannot be said so that it comes back.
    """
    cls = type(value)
    if cls is str:
        return _text(value)
    if cls is int or cls is bool or value is None:
        return value
    if cls is float:
        if not math.isfinite(value):
            raise Refused(f"{value!r} has no JSON form; use None or text instead")
        return value
    if not depth:
        raise Refused(f"is nested deeper than {MAX_DEPTH} levels, or contains itself")
    write = _WRITE.get(cls)
    if write is not None:
        return write(value, classes, depth - 1)
    if classes and (name := classes.name_of(cls)) is not None:
        return _write_instance(value, name, classes, depth - 1)
    raise Refused("cannot be restored", cls)


def _text(value: str) -> str:
    if "\0" in value:
        raise Refused("contains the character \\u0000, which databases do not store; take it out")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Refused(
                f"contains a lone surrogate, {value[error.start]!r}; decode with errors='replace', or keep bytes"
            ) from None
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
    fields = {key: item for key, item in zip(shape.fields, shape.read(value), strict=True) if item is not _MISSING}
    return _tag("instance", _write_fields(fields, classes, depth), {"class": name})


def _write_datetime(value: datetime, _classes: Classes, _depth: int) -> Any:
    zone = _zone(value)
    more: dict[str, Any] = {} if zone is None else {"zone": zone}
    if value.fold:
        more["fold"] = 1
    return _tag("datetime", value.isoformat(), more)


def _write_time(value: time, _classes: Classes, _depth: int) -> Any:
    return _tag("time", value.isoformat(), {"fold": 1} if value.fold else {})


def _write_decimal(value: Decimal, _classes: Classes, _depth: int) -> Any:
    if not value.is_finite():
        raise Refused(f"{value!r} is not a number that can be stored; use None or text instead")
    return _tag("decimal", str(value))


def _write_complex(value: complex, classes: Classes, depth: int) -> Any:
    return _tag("complex", [to_tagged(value.real, classes, depth), to_tagged(value.imag, classes, depth)])


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
}


# ----------------------------------------------------------------------------------------------------------- reading


def from_tagged(raw: Any, classes: Classes) -> Any:
    """The value that `to_tagged` was given.

    Raises:
        Refused: A tag is unknown, or does not fit the classes that the annotation names.
    """
    if type(raw) is list:
        return [from_tagged(item, classes) for item in raw]
    if type(raw) is not dict:
        return raw
    if TAG not in raw:
        return _read_fields(raw, classes)
    read = _READ.get(raw[TAG])
    if read is None:
        raise Refused(f"has the unknown tag {raw[TAG]!r}")
    try:
        return read(raw, classes)
    except (TypeError, ValueError, KeyError, ArithmeticError, AttributeError, OSError) as error:
        raise Refused(f"is no valid {raw[TAG]} ({type(error).__name__}: {error})") from error


def _read_fields(raw: dict[str, Any], classes: Classes) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, item in raw.items():
        try:
            made[key] = from_tagged(item, classes)
        except Refused as refused:
            raise refused.under(f".{key}") from None
    return made


def _read_instance(raw: dict[str, Any], classes: Classes) -> object:
    name = raw["class"]
    cls = classes.find(name)
    if cls is None:
        raise Refused(f"is an instance of {name}, a class that the annotation does not name (any more)")
    if issubclass(cls, Enum):
        return cls(from_tagged(raw["value"], classes))
    shape = cast("Shape", shape_of(cls))
    stored = _read_fields(raw["value"], classes)
    fields = {key: stored[key] for key in shape.fields if key in stored}
    for key, default in shape.defaults(cls).items():
        if key not in fields:
            fields[key] = default()
    return shape.build(cls, fields)


def _read_datetime(raw: dict[str, Any], _classes: Classes) -> datetime:
    value = datetime.fromisoformat(raw["value"]).replace(fold=raw.get("fold", 0))
    if "zone" not in raw:
        return value
    zone = ZoneInfo(raw["zone"])
    local = value.replace(tzinfo=zone)
    # The rules of the zone may have changed since: the moment counts, not what the clock showed.
    return local if local.utcoffset() == value.utcoffset() else value.astimezone(zone)


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
}


def shown(value: object) -> str:
    """The repr of a value in a message, cut, and safe for any terminal and database."""
    try:
        text = ascii(value)
    except Exception:  # noqa: BLE001 - a repr of the user's own
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."
