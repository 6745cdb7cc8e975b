"""The undo of a step: a function of its result, run when the execution fails or is cancelled with `undo=True`.

Functions are not stored. A replay meets the calls of workflow code again and so has their undos again; only a step inside a
body that has ended is not met again. Therefore the name of a function is recorded where the code of the workflow can be
asked for it later (see `references.py`), and a function without such a name is lost when its execution leaves memory.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, Final, NamedTuple, cast

from msgspec import Struct

from stepwell._engine.call import Call
from stepwell._engine.definition import resolved_hints
from stepwell.codec import NO_ANNOTATION, Codec, codec_for
from stepwell.retry import RetryPolicy

log: Final = logging.getLogger("stepwell")

NAMELESS: Final = "1"
"""What is recorded of an undo whose function has no name by which it can be found again."""


class Undo(Struct, frozen=True):
    """The option of a step: what undoes it, with the codec of its result."""

    fn: Callable[..., Any]
    codec: Codec
    policy: RetryPolicy
    name: str | None


class Undoable(NamedTuple):
    """A completed step that has an undo. `undo` is None if its function is not known."""

    path: str
    seq: int
    output: str
    undo: Undo | None


class _NoResult(Codec):
    __slots__ = ()

    def snapshot(self, value: object) -> tuple[str, object]:
        return "null", None


NO_RESULT: Final = _NoResult()
"""Nobody gets what an undo returns, so it need not be storable."""


def undo_option(what: str, fn: object, codec: Codec, policy: RetryPolicy) -> Undo:
    """Check what was given as `undo=`.

    Raises:
        TypeError: It is no function, or cannot be called with the result alone.
    """
    if not callable(fn):
        raise TypeError(f"undo= of {what} must be a function of the step's result, got {fn!r}.")
    _check_signature(what, fn)
    return Undo(fn, codec, policy, _name_of(fn, codec))


def recorded(call: Call, undo: Undo) -> str:
    """What is recorded with a step that has this undo."""
    if undo.name is not None:
        return undo.name
    if _is_inside_a_body(call):
        _warn(call, undo.fn)
    return NAMELESS


def found_again(fn: FunctionType, policy: RetryPolicy) -> Undo:
    """The undo whose function was found by its name."""
    return Undo(fn, _codec_of_parameter(fn), policy, None)


def _is_inside_a_body(call: Call) -> bool:
    scope = call.parent
    while scope is not None and scope.work is not None:
        if scope.work.kind == "run":
            return True
        scope = scope.parent
    return False


_SIGNATURES: Final[set[CodeType]] = set()
_WARNED: Final[set[object]] = set()


def _check_signature(what: str, fn: Callable[..., Any]) -> None:
    code = getattr(fn, "__code__", None)
    if code in _SIGNATURES:
        return
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # written in C
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(
            f"undo= of {what} is called with the step's result and nothing else; {fn!r} takes {signature}."
        ) from error
    if code is not None and not hasattr(fn, "__wrapped__"):
        _remember(_SIGNATURES, code)


def _warn(call: Call, fn: Callable[..., Any]) -> None:
    key = getattr(fn, "__code__", None)
    if key is None or key not in _WARNED:
        if key is not None:
            _remember(_WARNED, key)
        log.warning(
            "The undo of step %r, which is inside the body of another, cannot be found again once execution %s has left memory (it sleeps, or its process dies): %r is no function of a module whose parameter is annotated with the type of the result. Write it so, or move the step out of the body",
            call.path,
            call.runner.id,
            fn,
        )


def _remember(known: set[Any], key: object) -> None:
    if len(known) > 10_000:
        known.clear()
    known.add(key)


# ----------------------------------------------------------------------------------------------- names of functions


_NAMES: Final[dict[tuple[int, int], tuple[FunctionType, Codec, str | None]]] = {}


def dotted_name(fn: FunctionType) -> str | None:
    """The name of a function of a module or class; None for one that is made anew each time."""
    return None if "<" in fn.__qualname__ else f"{fn.__module__}:{fn.__qualname__}"


def _name_of(fn: Callable[..., Any], codec: Codec) -> str | None:
    """The name by which the function is found again, with a parameter that makes the same of the record as the step."""
    if not isinstance(fn, FunctionType):
        return None
    name = dotted_name(fn)
    if name is None:
        return None
    key = (id(fn), id(codec))
    known = _NAMES.get(key)
    if known is None:
        if len(_NAMES) > 10_000:
            _NAMES.clear()
        is_same = _lookup(fn) is fn and _codec_of_parameter(fn) is codec
        known = _NAMES[key] = fn, codec, name if is_same else None
    return known[2]


def _lookup(fn: FunctionType) -> object:
    return functools.reduce(
        lambda place, part: inspect.getattr_static(place, part, None),
        fn.__qualname__.split("."),
        cast("object", sys.modules.get(fn.__module__)),
    )


def _codec_of_parameter(fn: FunctionType) -> Codec:
    try:
        name = next(iter(inspect.signature(fn).parameters))
    except (TypeError, ValueError, StopIteration):
        return codec_for(NO_ANNOTATION)
    return codec_for(resolved_hints(fn).get(name, NO_ANNOTATION))
