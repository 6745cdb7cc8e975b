"""Input for annotations that msgspec has no decoder for, checked part by part.

These are unions of several classes or of several kinds of text, enums of mixed values, dataclasses with such fields,
and classes of no known kind.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from types import UnionType
from typing import Any, Final, TypeAlias, cast

from stepwell._shape import MISSING, Shape, field_hints, is_pydantic, shape_of
from stepwell._tagged import Refused, shown

Accept: TypeAlias = Callable[[object, Any], object]
"""Gives a value as the annotation's type, or raises Refused."""

_ITEMS: Final = (list, set, frozenset)


def accept_parts(value: Any, annotation: Any, accept: Accept) -> object:
    """Give the value as the annotation's type: instances as they are, and what has their shape in JSON made into them.

    Args:
        value: The input.
        annotation: What it must fit.
        accept: Does the same for a part.

    Raises:
        Refused: It does not fit.
    """
    origin: Any = typing.get_origin(annotation) or annotation
    args = typing.get_args(annotation)
    if origin in (typing.Union, UnionType):
        return _accept_member(value, args, accept)
    if origin is typing.Annotated:
        return accept(value, args[0])
    for renamed in ("__supertype__", "__value__"):
        if hasattr(annotation, renamed):
            return accept(value, getattr(annotation, renamed))
    if not isinstance(cast("object", origin), type):
        return value
    if type(value) is origin and not args:
        return _checked_instance(value, origin, accept)
    if issubclass(origin, Enum):
        return _accept_enum(value, origin)
    shape = shape_of(origin)
    if shape is not None and isinstance(value, dict) and not is_pydantic(origin):
        return _accept_fields(cast("dict[str, object]", value), origin, shape, accept)
    if args and isinstance(value, (list, tuple, set, frozenset, dict)):
        return _accept_items(cast("Any", value), origin, args, accept)
    if isinstance(value, origin):
        return cast("object", value)
    raise _mismatch(value, annotation)


def _mismatch(value: Any, annotation: object) -> Refused:
    return Refused("The value", f"must be {name_of(annotation)}, got {shown(value)}")


def name_of(annotation: object) -> str:
    """The annotation as the code says it."""
    return f"`{annotation.__name__}`" if isinstance(annotation, type) else f"`{annotation}`"


def _checked_instance(value: object, cls: type, accept: Accept) -> object:
    shape = shape_of(cls)
    if shape is None or is_pydantic(cls):
        return value
    hints = field_hints(cls)
    for name, item in zip(shape.fields, shape.read(value), strict=True):
        if item is not MISSING:
            _accept_under(f".{name}", item, hints.get(name, Any), accept)
    return value


def _accept_fields(value: Mapping[str, object], cls: type, shape: Shape, accept: Accept) -> object:
    hints, defaults = field_hints(cls), shape.defaults(cls)
    fields: dict[str, object] = {}
    for name in shape.fields:
        if name in value:
            fields[name] = _accept_under(f".{name}", value[name], hints.get(name, Any), accept)
        elif name in defaults:
            fields[name] = defaults[name]()
        else:
            raise Refused("The value", f"lacks the field {name!r} of {name_of(cls)}")
    return shape.build(cls, fields)


def _accept_under(step: str, value: object, annotation: Any, accept: Accept) -> object:
    try:
        return accept(value, annotation)
    except Refused as refused:
        raise refused.under(step) from None


def _accept_enum(value: object, cls: type[Enum]) -> object:
    try:
        return cls(value)
    except ValueError:
        raise _mismatch(value, cls) from None


def _accept_items(value: Any, origin: Any, args: tuple[Any, ...], accept: Accept) -> object:
    if isinstance(value, dict) and issubclass(dict, origin) and len(args) == 2:
        items = cast("dict[object, object]", value).items()
        return {accept(key, args[0]): _accept_under(f"[{shown(key)}]", item, args[1], accept) for key, item in items}
    if isinstance(value, dict) or (isinstance(value, (set, frozenset)) and origin not in (set, frozenset)):
        raise _mismatch(cast("object", value), origin)
    values = list(cast("list[object]", value))
    if origin is tuple and args[-1] is not Ellipsis:
        if len(values) != len(args):
            raise Refused("The value", f"must have {len(args)} items, has {len(values)}")
        return tuple(_accept_under(f"[{i}]", item, args[i], accept) for i, item in enumerate(values))
    made = (_accept_under(f"[{i}]", item, args[0], accept) for i, item in enumerate(values))
    if origin is tuple:
        return tuple(made)
    made_of = cast("Callable[[Iterable[object]], object]", origin if origin in _ITEMS else list)
    return made_of(made)


def _accept_member(value: Any, members: tuple[Any, ...], accept: Accept) -> object:
    if type(value) in members:
        return accept(value, type(value))
    fitting: list[object] = []
    problems: list[Refused] = []
    for member in members:
        try:
            fitting.append(accept(value, member))
        except Refused as refused:
            problems.append(refused)
    exact = [item for item in fitting if type(item) is type(value)]
    if exact:
        return exact[0]
    if isinstance(value, Mapping) and len(fitting) > 1:
        fitting = _with_all_fields(cast("Mapping[str, object]", value), fitting)
    if len(fitting) == 1 or (fitting and not isinstance(value, Mapping)):
        return fitting[0]
    if fitting:
        names = " and ".join(name_of(cast("type", type(item))) for item in fitting)
        raise Refused("The value", f"could be {names} alike; pass an instance")
    raise Refused("The value", f"fits none of {', '.join(map(name_of, members))}: " + "; ".join(map(str, problems)))


def _with_all_fields(value: Mapping[str, object], fitting: list[object]) -> list[object]:
    """Those that have a field for everything in the value: the others would drop some of it."""
    full: list[object] = []
    for item in fitting:
        shape = shape_of(type(item))
        if shape is None or is_pydantic(type(item)) or set(value) <= set(shape.fields):
            full.append(item)
    return full
