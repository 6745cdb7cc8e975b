"""What a callable says it returns."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

_MISSING: Final = inspect.Signature.empty


def return_annotation(fn: Callable[..., Any]) -> Any:
    """The annotation of what calling `fn` gives, awaited if need be; `Signature.empty` when it says nothing usable."""
    while isinstance(fn, (functools.partial, functools.partialmethod)):
        fn = fn.func
    if isinstance(fn, type):
        return fn
    fn = inspect.unwrap(fn)
    if not hasattr(fn, "__code__"):
        call: Any = inspect.getattr_static(type(fn), "__call__", None)
        if not hasattr(call, "__code__"):
            return _MISSING
        fn = inspect.unwrap(call)
    return _awaited(_resolved(fn))


def _resolved(fn: Callable[..., Any]) -> Any:
    try:
        annotation: Any = fn.__annotations__.get("return", _MISSING)
    except Exception:  # evaluated when asked for, since Python 3.14
        return _MISSING
    if annotation is None or annotation is _MISSING:
        return annotation
    # Alone, because an annotation of a parameter that cannot be resolved must not cost us this one.
    probe: Any = type("probe", (), {"__annotations__": {"returns": annotation}})
    try:
        return typing.get_type_hints(probe, _globals(fn), _nonlocals(fn), include_extras=True)["returns"]
    except Exception:  # annotations may contain anything
        return _MISSING


def _globals(fn: Any) -> dict[str, Any]:
    return getattr(fn, "__globals__", {})


def _nonlocals(fn: Any) -> dict[str, Any]:
    names = fn.__code__.co_freevars
    found: dict[str, Any] = {}
    for name, cell in zip(names, fn.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _awaited(annotation: Any) -> Any:
    """What is behind `Awaitable[T]` and `Coroutine[…, …, T]`."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin in (Awaitable, Coroutine) and arguments:
        return arguments[-1]
    return annotation
