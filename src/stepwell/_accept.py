"""Input that msgspec cannot judge as a whole, checked part by part.

That is input for annotations that it has no decoder for (unions of several classes or of several kinds of text, enums
of mixed values, dataclasses with such fields), and instances whose untyped parts hold more than JSON can say.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from types import UnionType
from typing import Any, Final, TypeAlias, cast

from stepwell._shape import MISSING, Classes, Shape, field_hints, is_enum, is_kind_of, is_pydantic, shape_of
from stepwell._tagged import Refused, shown
from stepwell.secret import LOST, Secret, peek

Accept: TypeAlias = Callable[[object, Any], object]
"""Gives a value as the annotation's type, or raises Refused."""

_COLLECTIONS: Final = (list, tuple, set, frozenset)


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
    return _accept_class(value, origin, args, accept)


def _accept_class(value: Any, origin: Any, args: tuple[Any, ...], accept: Accept) -> object:
    cls = type(cast("object", value))
    if origin is Secret:
        return accept_secret(value, args, accept)
    if cls is dict and not is_pydantic(origin):
        given: dict[Any, object] = value
        if typing.is_typeddict(origin):
            return _accept_known_keys(given, field_hints(origin), accept)
        shape = shape_of(origin)
        if shape is not None:
            return _accept_fields(given, origin, shape, accept)
        if issubclass(dict, origin) and len(args) == 2:
            return {accept(k, args[0]): _accept_under(f"[{shown(k)}]", v, args[1], accept) for k, v in given.items()}
    if is_enum(origin):
        return _accept_enum(value, origin)
    if cls is origin and shape_of(origin) is not None:
        return _checked_instance(value, origin, accept)
    if args and cls in _COLLECTIONS and is_kind_of(origin, Iterable):
        return _accept_items(value, origin, args, accept)
    if _is_instance(value, origin):
        return value
    raise _mismatch(value, origin, args)


def name_of(annotation: object) -> str:
    """The annotation as the code says it."""
    return f"`{annotation.__name__}`" if isinstance(annotation, type) else f"`{annotation}`"


def accept_secret(value: object, args: tuple[Any, ...], accept: Accept) -> Secret[Any]:
    """The value wrapped, if it is not; what it holds fits the annotation."""
    if value is LOST:
        return LOST
    held = peek(cast("Secret[Any]", value)) if isinstance(value, Secret) else value
    try:
        accepted = accept(held, args[0]) if args else held
    except Refused:
        raise Refused("", f"The value of a Secret is not what {name_of(args[0])} says") from None
    return cast("Secret[Any]", value) if isinstance(value, Secret) and accepted is held else Secret(accepted)


def _mismatch(value: Any, annotation: object, args: tuple[object, ...] = ()) -> Refused:
    if Classes((annotation, *args)).has_secrets:
        return Refused("", f"Expected {name_of(annotation)}, got {type(value).__name__}")
    return Refused("", f"Expected {name_of(annotation)}, got {shown(value)}")


def _is_instance(value: object, cls: type) -> bool:
    try:
        return isinstance(value, cls)
    except TypeError:  # a protocol that does not check instances
        return True


def _accept_under(step: str, value: object, annotation: Any, accept: Accept) -> object:
    try:
        return accept(value, annotation)
    except Refused as refused:
        raise refused.under(step) from None


def _checked_instance(value: object, cls: type, accept: Accept) -> object:
    if is_pydantic(cls):
        return _checked_model(value, accept)
    shape, hints = cast("Shape", shape_of(cls)), field_hints(cls)
    accepted: dict[str, object] = {}
    is_changed = False
    for name, item in zip(shape.fields, shape.read(value), strict=True):
        if item is not MISSING:
            accepted[name] = _accept_under(f".{name}", item, hints.get(name, Any), accept)
            is_changed |= accepted[name] is not item
    return shape.build(cls, accepted) if is_changed else value


def _checked_model(value: Any, accept: Accept) -> object:
    """pydantic has checked it when it was made, but not what was assigned since: a secret might be unwrapped."""
    cls: type = type(cast("object", value))
    hints = {name: hint for name, hint in field_hints(cls).items() if Classes((hint,)).has_secrets}
    accepted = {
        name: _accept_under(f".{name}", value.__dict__[name], hint, accept)
        for name, hint in hints.items()
        if name in value.__dict__
    }
    changed = {name: item for name, item in accepted.items() if item is not value.__dict__[name]}
    return value.model_copy(update=changed) if changed else value


def _accept_fields(given: dict[str, object], cls: Any, shape: Shape, accept: Accept) -> object:
    hints = field_hints(cls)
    known = _init_names(cls, hints) or shape.fields
    fields = {
        name: _accept_under(f".{name}", given[name], hints.get(name, Any), accept) for name in known if name in given
    }
    try:
        return cls(**fields)
    except (TypeError, ValueError) as error:
        raise Refused("", f"Expected {name_of(cls)}: {error}") from error


def _init_names(cls: type, hints: dict[str, Any]) -> list[str]:
    """What a dataclass is made from, `InitVar` included."""
    if not dataclasses.is_dataclass(cls):
        return []
    left_out = {field.name for field in dataclasses.fields(cls) if not field.init}
    return [name for name in hints if name not in left_out]


def _accept_known_keys(given: dict[str, object], hints: dict[str, Any], accept: Accept) -> dict[str, object]:
    return {key: _accept_under(f".{key}", item, hints.get(key, Any), accept) for key, item in given.items()}


def _accept_enum(value: object, cls: type[Enum]) -> object:
    try:
        return cls(value)
    except ValueError:
        raise _mismatch(value, cls) from None


def _accept_items(value: Any, origin: Any, args: tuple[Any, ...], accept: Accept) -> object:
    if type(cast("object", value)) in (set, frozenset) and is_kind_of(origin, Sequence):
        raise _mismatch(value, origin, args)
    items: list[object] = [*value]
    if origin is tuple and args[-1] is not Ellipsis:
        if len(items) != len(args):
            raise Refused("", f"Expected {len(args)} items, got {len(items)}")
        return tuple(_accept_under(f"[{i}]", item, args[i], accept) for i, item in enumerate(items))
    made = [_accept_under(f"[{i}]", item, args[0], accept) for i, item in enumerate(items)]
    kind = next((kind for kind in _COLLECTIONS if kind is origin), None)
    if kind is None:
        kind = next(kind for kind in _COLLECTIONS if isinstance(value, kind))
    return cast("Callable[[Iterable[object]], object]", kind)(made)


def _accept_member(value: Any, members: tuple[Any, ...], accept: Accept) -> object:
    if type(value) in members:
        return accept(value, type(value))
    fitting: list[object] = []
    problems: list[str] = []
    for member in members:
        try:
            fitting.append(accept(value, member))
        except Refused as refused:
            problems.append(str(refused))
    if not fitting:
        raise Refused("", f"Fits none of {', '.join(map(name_of, members))} ({'; '.join(problems)})")
    same = [item for item in fitting if type(item) is type(value)]
    if same or not isinstance(value, dict):
        return (same or fitting)[0]
    return _best_fitting(set(cast("dict[str, object]", value)), fitting)


def _best_fitting(keys: set[str], fitting: list[object]) -> object:
    """The one that has these fields and no others, else the only one that would drop none of them."""
    fields = [shape.fields if (shape := shape_of(type(item))) else tuple(keys) for item in fitting]
    exact = [item for item, names in zip(fitting, fields, strict=True) if set(names) == keys]
    full = [item for item, names in zip(fitting, fields, strict=True) if set(names) >= keys]
    for candidates in (exact, full, fitting):
        if len(candidates) == 1:
            return candidates[0]
    names = " and ".join(name_of(type(item)) for item in fitting)
    raise Refused("", f"Could be {names} alike: pass an instance")
