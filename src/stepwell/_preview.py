"""A short look at the arguments of a step, for people."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice
from types import NoneType
from typing import Any, Final, NamedTuple, cast

import msgspec

from stepwell._shape import MISSING, is_pydantic, shape_of
from stepwell.secret import MASK, Secret

LIMIT: Final = 4096
"""Bytes that a preview has at most."""

_NUL: Final = "\\u0000"
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_SMALL: Final = frozenset((NoneType, bool, int, float, Decimal, datetime, date, time, timedelta, uuid.UUID))
_COLLECTIONS: Final = (list, tuple, set, frozenset)


class _Size(NamedTuple):
    text: int
    items: int
    depth: int


_SIZES: Final = (_Size(300, 20, 6), _Size(100, 10, 4), _Size(30, 5, 3), _Size(20, 3, 2))


def preview(args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> str:
    """Give JSON text of at most 4 KiB that shows the arguments; never raises.

    What cannot be encoded shows as its type, `"<Connection>"`. What is long is cut, and says how much is missing.
    """
    shown: Any = {"args": args, "kwargs": kwargs} if kwargs else args
    try:
        if _is_small(args, 3) and (not kwargs or _is_small(kwargs.values(), 3)):
            data = _encode(shown)
            if len(data) <= LIMIT:
                text = data.decode()
                if _NUL not in text:
                    return text
    except Exception:  # whatever the arguments do when they are looked at
        return _cut_preview(shown)
    return _cut_preview(shown)


def _hook(value: Any) -> Any:
    if isinstance(value, Secret):
        return MASK
    return value.__dict__ if is_pydantic(value.__class__) else f"<{value.__class__.__name__}>"


_encode: Final = msgspec.json.Encoder(enc_hook=_hook).encode


def _is_small(items: Iterable[object], depth: int) -> bool:
    """Whether encoding is sure not to take long; only looked at, nothing is converted."""
    for item in items:
        cls = type(item)
        if cls in _SMALL:
            continue
        if cls is str or cls is bytes:
            if len(cast("str", item)) > 1000:
                return False
        elif not _has_few_parts(item, cls, depth):
            return False
    return True


def _has_few_parts(item: Any, cls: type, depth: int) -> bool:
    if isinstance(item, dict):
        fields = cast("dict[object, object]", item)
        return depth > 0 and len(fields) <= 50 and _is_small(fields.values(), depth - 1)
    if isinstance(item, _COLLECTIONS):
        return depth > 0 and len(cast("list[object]", item)) <= 50 and _is_small(cast("list[object]", item), depth - 1)
    shape = shape_of(cls)
    if shape is not None:
        return depth > 0 and _is_small(shape.read(item), depth - 1)
    return not isinstance(item, (str, bytes, bytearray, memoryview))


def _cut_preview(shown: Any) -> str:
    for size in _SIZES:
        try:
            data = _encode(_cut(shown, size, size.depth))
            if len(data) <= LIMIT:
                return data.decode()
        except Exception:  # noqa: S112 - the next form shows less
            continue
    return f'["<{len(shown)} arguments>"]'


def _cut(value: Any, size: _Size, depth: int) -> Any:
    try:
        return _cut_known(value, size, depth)
    except Exception:  # a property or an iterator of the user's own
        return f"<{_text(type(value).__name__, size)}>"


def _cut_known(value: Any, size: _Size, depth: int) -> Any:
    cls = type(cast("object", value))
    if value is None or cls is bool:
        return value
    cut = _CUT.get(cls)
    if cut is not None:
        return cut(value, size)
    if isinstance(value, Enum):
        return _text(str(value), size)
    if isinstance(value, str):
        return _text(str.__str__(value), size)
    shape = shape_of(cls)
    if depth and isinstance(value, dict):
        return _cut_fields(cast("dict[object, object]", value), size, depth - 1)
    if depth and is_pydantic(cls):
        return _cut_fields(value.__dict__, size, depth - 1)
    if depth and shape is not None:
        fields = {k: v for k, v in zip(shape.fields, shape.read(value), strict=True) if v is not MISSING}
        return _cut_fields(fields, size, depth - 1)
    if depth and isinstance(value, _COLLECTIONS):
        return _cut_items(cast("list[object]", value), size, depth - 1)
    return f"<{_text(cls.__name__, size)}>"


def _cut_items(value: Iterable[object], size: _Size, depth: int) -> list[Any]:
    made = [_cut(item, size, depth) for item in islice(value, size.items)]
    missing = len(cast("list[object]", value)) - len(made)
    return [*made, f"… {missing:,} more"] if missing > 0 else made


def _cut_fields(value: Mapping[Any, object], size: _Size, depth: int) -> dict[str, Any]:
    made = {_text(str(key), size): _cut(item, size, depth) for key, item in islice(value.items(), size.items)}
    if len(value) > size.items:
        made["…"] = f"{len(value) - size.items:,} more"
    return made


def _text(value: str, size: _Size) -> str:
    cut = value if len(value) <= size.text else f"{value[: size.text]}… {len(value) - size.text:,} more characters"
    return _UNSTORABLE.sub("\ufffd", cut)


def _cut_int(value: int, size: _Size) -> Any:
    return value if value.bit_length() <= 256 else f"<int of {value.bit_length():,} bits>"


def _cut_float(value: float, size: _Size) -> Any:
    return value if math.isfinite(value) else repr(value)


def _cut_bytes(value: bytes, size: _Size) -> str:
    more = f"… {len(value) - size.text:,} more bytes" if len(value) > size.text else ""
    return repr(bytes(value[: size.text])) + more


def _cut_leaf(value: object, size: _Size) -> str:
    return _text(str(value), size)


_CUT: Final[dict[type, Callable[[Any, _Size], Any]]] = {
    str: _text,
    int: _cut_int,
    float: _cut_float,
    bytes: _cut_bytes,
    bytearray: _cut_bytes,
    Decimal: _cut_leaf,
    datetime: _cut_leaf,
    date: _cut_leaf,
    time: _cut_leaf,
    timedelta: _cut_leaf,
    uuid.UUID: _cut_leaf,
    Secret: _cut_leaf,
}
