"""Classes with fields: how their instances are taken apart and put together, and which ones an annotation names."""

from __future__ import annotations

import collections.abc
import dataclasses
import sys
import typing
from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Final, NamedTuple, TypeAlias, cast

import msgspec

from stepwell.secret import Secret

MISSING: Final = object()
"""Stands for a field that an instance does not have."""

_KEPT: Final = 4096
# What says no more than JSON itself. Not float: there an int comes back as another type.
_JSON: Final = (None, NoneType, bool, int, str, list, dict, Any, object, typing.Union, UnionType)


Defaults: TypeAlias = dict[str, Callable[[], object] | None]
"""What makes the values of fields that were not stored; None for those that an instance may lack."""


class Shape(NamedTuple):
    """How instances of a class are taken apart and put together without running their `__init__`.

    `get` is `read` without care: it raises AttributeError for a field that is not there, where `read` gives MISSING.
    """

    fields: tuple[str, ...]
    get: Callable[[Any], tuple[object, ...]]
    read: Callable[[Any], tuple[object, ...]]
    build: Callable[[type, dict[str, object]], object]
    defaults: Callable[[type], Defaults]


_shapes: Final[dict[type, Shape | None]] = {}


def shape_of(cls: Any) -> Shape | None:
    """The shape of a dataclass, msgspec Struct, attrs class, NamedTuple or pydantic model; else None."""
    try:
        return _shapes[cls]
    except KeyError:
        if len(_shapes) >= _KEPT:
            _shapes.clear()
        shape = _shapes[cls] = _shape(cls)
        return shape


def is_pydantic(cls: Any) -> bool:
    """Whether the class is a pydantic model; pydantic is not imported to find out."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(cls, type) and issubclass(cls, pydantic.BaseModel)


def is_enum(cls: type) -> bool:
    """Whether the class is an enum, whose members are told by their values."""
    return issubclass(cls, Enum)


def _shape(cls: Any) -> Shape | None:
    if is_enum(cls):
        return None
    if is_pydantic(cls):
        return Shape(("fields", "extra", "private"), _model_state, _model_state, _build_model, _no_defaults)
    if dataclasses.is_dataclass(cls):
        return _plain_shape(tuple(field.name for field in dataclasses.fields(cls)), _build_object, _dataclass_defaults)
    if issubclass(cls, msgspec.Struct):
        return _plain_shape(cls.__struct_fields__, _build_struct, _struct_defaults)
    if hasattr(cls, "__attrs_attrs__"):
        return _plain_shape(tuple(field.name for field in cls.__attrs_attrs__), _build_object, _attrs_defaults)
    names: Any = getattr(cls, "_fields", None)
    if names is not None and issubclass(cls, tuple):
        return Shape(names, tuple, tuple, _build_named_tuple, _named_tuple_defaults)
    return None


def _plain_shape(
    names: tuple[str, ...],
    build: Callable[[type, dict[str, object]], object],
    defaults: Callable[[type], Defaults],
) -> Shape:
    def read(value: object) -> tuple[object, ...]:
        return tuple(getattr(value, name, MISSING) for name in names)

    return Shape(names, attrgetter(*names) if len(names) > 1 else read, read, build, defaults)


def _build_object(cls: Any, fields: dict[str, object]) -> object:
    made: object = cls.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _build_struct(cls: Any, fields: dict[str, object]) -> object:
    return cls(**fields)


def _build_named_tuple(cls: Any, fields: dict[str, object]) -> object:
    # Not `_make`: that may run code of a subclass.
    return cast("Any", tuple).__new__(cls, [fields[name] for name in cls._fields])


def _build_model(cls: Any, state: dict[str, object]) -> object:
    stored = cast("dict[str, object]", state["fields"])
    fields = {name: _model_field(field, name, stored) for name, field in cls.__pydantic_fields__.items()}
    made: Any = cls.__new__(cls)
    made.__setstate__(
        {
            "__dict__": fields,
            "__pydantic_fields_set__": set(fields),
            "__pydantic_extra__": state["extra"],
            "__pydantic_private__": state["private"],
        }
    )
    return made


def _model_field(field: Any, name: str, stored: dict[str, object]) -> object:
    if name in stored:
        return stored[name]
    if field.is_required():
        raise KeyError(name)
    return field.get_default(call_default_factory=True)


def _model_state(model: Any) -> tuple[object, ...]:
    known: dict[str, Any] = model.__class__.__pydantic_fields__
    state: dict[str, Any] = model.__getstate__()
    fields = {name: value for name, value in state["__dict__"].items() if name in known}
    return fields, state["__pydantic_extra__"], state["__pydantic_private__"]


def _dataclass_defaults(cls: Any) -> Defaults:
    found: Defaults = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            found[field.name] = partial(_given, field.default)
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory
        elif not field.init:
            found[field.name] = None
    return found


def _struct_defaults(cls: Any) -> Defaults:
    # The constructor fills them in, or refuses.
    return dict.fromkeys(cls.__struct_fields__)


def _attrs_defaults(cls: Any) -> Defaults:
    found: Defaults = {}
    for field in cls.__attrs_attrs__:
        factory = getattr(field.default, "factory", None)
        if factory is not None and not field.default.takes_self:
            found[field.name] = factory
        elif repr(field.default) != "NOTHING":
            found[field.name] = partial(_given, field.default)
    return found


def _named_tuple_defaults(cls: Any) -> Defaults:
    return {name: partial(_given, value) for name, value in cls._field_defaults.items()}


def _no_defaults(cls: Any) -> Defaults:
    return {}


def _given(value: object) -> object:
    return value


def with_defaults(value: object) -> object:
    """The same value, where each dataclass in it holds its defaults itself.

    msgspec leaves them to the class, and then does not write them: the text would depend on the form of the input, and
    a default that changes later would change what was stored.
    """
    if isinstance(value, dict):
        parts: Iterable[object] = cast("dict[object, object]", value).values()
    elif isinstance(value, (list, tuple)):
        parts = cast("list[object]", value)
    else:
        shape = shape_of(type(value))
        parts = () if shape is None else shape.read(value)
        if shape is not None and dataclasses.is_dataclass(value):
            for name, part in zip(shape.fields, parts, strict=True):
                if part is not MISSING:
                    object.__setattr__(value, name, part)
    for part in parts:
        with_defaults(part)
    return cast("object", value)


class Classes:
    """The classes that an annotation names, directly or through the fields of others."""

    def __init__(self, annotations: Iterable[object] = ()) -> None:
        """Find them. `only_json`, `has_sets`, `has_dicts`, `has_secrets` tell what else the annotation allows."""
        self.only_json = True
        self.has_secrets = False
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
        self.has_secrets |= origin is Secret
        self.only_json &= origin in _JSON and not (origin is dict and _first(annotation) not in (None, str, Any))
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

    def _visit_class(self, cls: Any) -> None:
        self.has_sets |= is_kind_of(cls, collections.abc.Set)
        self.has_dicts |= is_kind_of(cls, collections.abc.Mapping) or is_pydantic(cls)
        has_fields = shape_of(cls) is not None
        if has_fields or is_enum(cls):
            self._named.setdefault(cls.__name__, []).append(cls)
        if has_fields or typing.is_typeddict(cls):
            for hint in field_hints(cls).values():
                self._visit(hint)


def field_hints(cls: type) -> dict[str, Any]:
    """The annotations of a class as objects; those that cannot be resolved are `Any`."""
    try:
        return typing.get_type_hints(cls)
    except Exception:  # names that exist only for type checkers
        return _hints_one_by_one(cls)


def _hints_one_by_one(cls: type) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, hint in getattr(base, "__annotations__", {}).items():
            probe: Any = type("probe", (), {"__annotations__": {name: hint}, "__module__": base.__module__})
            try:
                hints.update(typing.get_type_hints(probe, localns=vars(base)))
            except Exception:  # see above
                hints[name] = Any
    return hints


def _first(annotation: object) -> object:
    return next(iter(typing.get_args(annotation)), None)


def is_kind_of(cls: type, kind: type) -> bool:
    """`issubclass`, which does not narrow the type for the type checker."""
    return issubclass(cls, kind)


def _dotted(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
