"""Whether what was read back is what was written: equal, and of the same types all through."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

from stepwell._shape import Shape, is_pydantic, shape_of
from stepwell.secret import LOST, Secret, peek

MAX_DEPTH: Final = 64
"""Levels that a value may be nested."""

_JSON_SCALARS: Final = frozenset((str, int, bool, NoneType, float))
# Their own `==` says all there is to say.
_EXACT: Final = frozenset((*_JSON_SCALARS, bytes, bytearray, date, timedelta, uuid.UUID))
_STR: Final = frozenset((str,))


def is_plain(value: object, depth: int = MAX_DEPTH) -> bool:
    """Whether the value is made of nothing but JSON's own types, exactly, with text as keys, and not too deep."""
    cls = type(value)
    if cls is dict:
        fields = cast("dict[object, object]", value)
        if not _STR.issuperset(map(type, fields)):
            return False
        items = fields.values()
    elif cls is list:
        items = cast("list[object]", value)
    else:
        return cls in _JSON_SCALARS
    if not depth:
        return False
    # A plain loop: a generator would double the time of the small values that steps return.
    for item in items:  # noqa: SIM110
        if type(item) not in _JSON_SCALARS and not is_plain(item, depth - 1):
            return False
    return True


def is_same(a: object, b: object, depth: int = MAX_DEPTH) -> bool:
    """Whether `b` can stand for `a`, and neither is nested too deep.

    An int may come back as the equal float: that happens only where the annotation says float.
    """
    cls = type(a)
    if cls is not type(b):
        return cls is int and type(b) is float and a == b
    if cls in _EXACT:
        return a == b
    if not depth:
        return False
    return (_comparers.get(cls) or _comparer(cls))(a, b, depth - 1)


def _same_items(a: Sequence[object], b: Sequence[object], depth: int) -> bool:
    types = tuple(map(type, a))
    if types == tuple(map(type, b)):
        if _all_exact(types):
            return a == b
    elif len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):  # noqa: SIM110 - as above
        if not is_same(x, y, depth):
            return False
    return True


_known_exact: Final[set[tuple[type, ...]]] = set()


def _all_exact(types: tuple[type, ...]) -> bool:
    if types in _known_exact:
        return True
    if not _EXACT.issuperset(types):
        return False
    if len(types) <= 16 and len(_known_exact) < 10_000:
        _known_exact.add(types)
    return True


def _same_dict(a: dict[object, object], b: dict[object, object], depth: int) -> bool:
    return _same_items([*a], [*b], depth) and _same_items([*a.values()], [*b.values()], depth)


def _same_set(a: set[object], b: set[object], _depth: int) -> bool:
    return a == b and sorted(id(type(x)) for x in a) == sorted(id(type(x)) for x in b)


def _same_decimal(a: Decimal, b: Decimal, _depth: int) -> bool:
    return a.is_finite() and a == b and str(a) == str(b)


def _same_datetime(a: datetime, b: datetime, _depth: int) -> bool:
    if a.tzinfo is b.tzinfo:
        return a == b and a.fold == b.fold
    zone = zone_of(a)
    return a == b and a.utcoffset() == b.utcoffset() and zone == zone_of(b) and (zone is None or a.fold == b.fold)


def _same_time(a: time, b: time, _depth: int) -> bool:
    return (
        a.replace(tzinfo=None) == b.replace(tzinfo=None)
        and a.fold == b.fold
        and a.utcoffset() == b.utcoffset()
        and (a.tzinfo is None) == (b.tzinfo is None)
    )


def _same_secret(a: Secret[object], b: Secret[object], depth: int) -> bool:
    if a is LOST or b is LOST:
        return a is b
    return is_same(peek(a), peek(b), depth)


def zone_of(value: datetime) -> str | None:
    """The name of the time zone, where it has one: other zones are told by their offset alone."""
    return value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else None


_BUILT_IN: Final[dict[type, Callable[[Any, Any, int], bool]]] = {
    list: _same_items,
    tuple: _same_items,
    dict: _same_dict,
    set: _same_set,
    frozenset: _same_set,
    Decimal: _same_decimal,
    datetime: _same_datetime,
    time: _same_time,
    Secret: _same_secret,
}
_comparers: Final = dict(_BUILT_IN)


def _comparer(cls: type) -> Callable[[Any, Any, int], bool]:
    if len(_comparers) >= 4096:
        _comparers.clear()
        _comparers.update(_BUILT_IN)
    shape = shape_of(cls)
    if is_pydantic(cls):
        compare = _same_model
    elif shape is not None:
        compare = _comparer_of_fields(shape)
    elif issubclass(cls, Enum):
        compare = _is_identical
    else:
        compare = _is_equal
    _comparers[cls] = compare
    return compare


def _comparer_of_fields(shape: Shape) -> Callable[[Any, Any, int], bool]:
    get = shape.get

    def compare(a: object, b: object, depth: int) -> bool:
        try:
            x, y = get(a), get(b)
        except AttributeError:
            x, y = shape.read(a), shape.read(b)
        types = tuple(map(type, x))
        if types in _known_exact and types == tuple(map(type, y)):
            return x == y
        return _same_items(x, y, depth)

    return compare


def _same_model(a: Any, b: Any, depth: int) -> bool:
    if _same_dict(a.__dict__, b.__dict__, depth):
        x, y = (a.__pydantic_extra__, a.__pydantic_private__), (b.__pydantic_extra__, b.__pydantic_private__)
        return _same_items(x, y, depth)
    # Beside its fields, `__dict__` has what `functools.cached_property` keeps.
    shape = cast("Shape", shape_of(type(a)))
    return _same_items(shape.read(a), shape.read(b), depth)


def _is_identical(a: object, b: object, _depth: int) -> bool:
    return a is b


def _is_equal(a: object, b: object, _depth: int) -> bool:
    return bool(a == b) and getattr(a, "__dict__", None) == getattr(b, "__dict__", None)
