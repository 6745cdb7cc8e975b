"""Errors as JSON text, and errors made again from it.

Restoring imports nothing and looks names up only among the `Exception` classes that were loaded when the registry was
made, and those it was given. `__init__` of a user's class is never called. An error that would not say the same again,
or whose class is not known, comes back as StepFailedError. Its `__cause__` shows where the original was raised.
Errors are read by people, so no secret is kept in them, and texts that were taken out of secrets are masked.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

import msgspec

from stepwell._coded import problem_of
from stepwell._revealed import without_revealed
from stepwell.codec import NO_ANNOTATION, codec_for
from stepwell.errors import InvalidInputError, PayloadCodecError, StepFailedError, StepwellError
from stepwell.secret import MASK, without_secrets

_LIMIT: Final = 16_384
_LONGEST_REASON: Final = 2_000
_MAX_CAUSES: Final = 20
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
# Raised inside a coroutine they turn into RuntimeError: they cannot be what a step call raises.
_NEVER_RESTORED: Final = (StopIteration, StopAsyncIteration)

_values: Final = codec_for(NO_ANNOTATION)


class _Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """The stored form. Each of `args` and each value of `state` is a text of the untyped codec, inlined."""

    type: str
    message: str
    traceback: str = ""
    args: list[msgspec.Raw] | None = None
    state: dict[str, msgspec.Raw] = {}
    causes: tuple[tuple[str, str], ...] = ()
    bases: tuple[str, ...] = ()


class RecordedError(Exception):
    """The cause of a restored error: shows the traceback of the original, which is text by now."""

    def __init__(self, error_traceback: str, causes: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(error_traceback)
        self.causes = causes

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Record).decode


# --------------------------------------------------------------------------------------------------------- recording


def record_error(error: BaseException) -> str:
    """Give the error as JSON text; never raises, whatever the error does."""
    cls = type(error)
    record = _Record(
        _clean(_dotted(cls)),
        _message(error),
        _traceback(error),
        _args(error),
        _state(error),
        tuple(_causes(error)),
        tuple(_clean(_dotted(base)) for base in cls.__mro__[1:] if base not in (BaseException, object)),
    )
    return _encode(record).decode()


def _dotted(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _clean(text: str) -> str:
    return _UNSTORABLE.sub("\ufffd", without_revealed(text, MASK))


def _cut(text: str) -> str:
    if len(text) <= _LIMIT:
        return text
    half = _LIMIT // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"


def _message(error: BaseException) -> str:
    try:
        return _cut(_clean(str(error)))
    except Exception as broken:  # a __str__ of the user's own
        return f"<no message: its __str__ raised {type(broken).__name__}>"


def _traceback(error: BaseException) -> str:
    try:
        return _cut(_clean("".join(traceback.format_exception(error))))
    except Exception as broken:  # see above
        return f"<no traceback: formatting it raised {type(broken).__name__}>"


def _args(error: BaseException) -> list[msgspec.Raw] | None:
    try:
        args = cast("tuple[Any, ...]", error.__reduce__()[1]) if _is_made_by_built_in(type(error)) else error.args
        return [_stored(value) for value in args]
    except Exception:  # what cannot be stored, or a __reduce__ of the user's own
        return None


def _state(error: BaseException) -> dict[str, msgspec.Raw]:
    state: dict[str, msgspec.Raw] = {}
    for name, value in _attributes(error):
        try:
            _values.encode(name)
            state[name] = _stored(value)
        except Exception:  # noqa: S112 - only the JSON part is kept
            continue
    return state


def _attributes(error: BaseException) -> list[tuple[str, object]]:
    try:
        attributes = dict(error.__dict__)
        if _is_made_by_built_in(type(error)):
            # ImportError and AttributeError keep theirs outside of `__dict__`.
            reduced = cast("tuple[Any, ...]", error.__reduce__())
            attributes.update(reduced[2] if len(reduced) > 2 else {})
        return list(attributes.items())
    except Exception:  # see above
        return []


def _stored(value: object) -> msgspec.Raw:
    text = _values.encode(without_secrets(value))
    if len(text) > _LIMIT:
        raise ValueError("too long")
    return msgspec.Raw(text.encode())


def _restored(raw: msgspec.Raw) -> Any:
    return _values.decode(bytes(raw).decode())


def _causes(error: BaseException) -> Iterator[tuple[str, str]]:
    seen = {id(error)}
    waiting = _causes_of(error)
    while waiting and len(seen) <= _MAX_CAUSES:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        if isinstance(cause, RecordedError):
            yield from cause.causes
        else:
            yield _clean(_dotted(type(cause))), _message(cause)
            waiting.extend(_causes_of(cause))


def _causes_of(error: BaseException) -> list[BaseException]:
    members: list[BaseException] = []
    if isinstance(error, BaseExceptionGroup):
        members.extend(cast("BaseExceptionGroup[BaseException]", error).exceptions)
    cause = error.__cause__
    if cause is None and not error.__suppress_context__:
        cause = error.__context__
    return members if cause is None else [cause, *members]


def _is_made_by_built_in(cls: type) -> bool:
    """Whether making an instance by its `__reduce__` runs nothing but Python's own code."""
    return all(_definer(cls, method).__module__ == "builtins" for method in ("__new__", "__init__", "__reduce__"))


def _definer(cls: type, method: str) -> type:
    return next(base for base in cls.__mro__ if method in vars(base))


# --------------------------------------------------------------------------------------------------------- restoring


def check_reason(value: object, what: str) -> str:
    """The text if it can be stored as a reason or message.

    Raises:
        InvalidInputError: It is no text, too long, or holds characters that cannot be stored.
    """
    if not isinstance(value, str) or len(value) > _LONGEST_REASON:
        raise InvalidInputError(
            f"{what} must be text of at most {_LONGEST_REASON:,} characters, got {ascii(value)[:120]}."
        )
    if _UNSTORABLE.search(value) is not None:
        raise InvalidInputError(
            f"{what} cannot be stored: it has NUL characters or lone surrogates: {ascii(value)[:120]}."
        )
    return value


class ErrorRegistry:
    """The exception classes that recorded errors may come back as: those loaded now, and `extra` ones."""

    def __init__(self, extra: Iterable[type[BaseException]] = ()) -> None:
        self._known = _loaded_classes()
        for cls in extra:
            if not isinstance(cast("object", cls), type) or not issubclass(cls, Exception):
                raise InvalidInputError(f"errors must be Exception classes, got {cls!r}.")
            self._known[_dotted(cls)] = cls

    def restore(self, text: str) -> Exception:
        """Give the recorded error, new each time, whatever the record holds.

        Raises:
            PayloadCodecError: It cannot be read by this process: another error must not take its place.
        """
        problem = problem_of(text)
        if problem is not None:
            raise PayloadCodecError(f"A recorded error cannot be read: {problem}.")
        record = _parsed(text)
        error = self._rebuild(record) or _stand_in(record)
        if record.traceback:
            error.__cause__ = RecordedError(record.traceback, record.causes)
        return error

    def _rebuild(self, record: _Record) -> Exception | None:
        cls = self._known.get(record.type)
        if cls is None or record.args is None or issubclass(cls, _NEVER_RESTORED):
            return None
        try:
            error = _rebuilt(cls, record)
            return error if type(error) is cls and str(error) == record.message else None
        except Exception:  # code of the user's class: the stand-in must do
            return None


def show_origin(error: BaseException, text: str) -> BaseException:
    """Let an error that came from another process show, as its cause, where it was raised there."""
    record = _parsed(text)
    error.__cause__ = RecordedError(record.traceback, record.causes)
    return error


def error_summary(text: str) -> tuple[str, str, str]:
    """Give the type, message and traceback of a recorded error."""
    record = _parsed(text)
    return record.type, record.message, record.traceback


def _loaded_classes() -> dict[str, type[Exception] | None]:
    """The loaded Exception classes by dotted name; None where several classes share one."""
    known: dict[str, type[Exception] | None] = {}
    seen: set[type[Exception]] = set()
    waiting: list[type[Exception]] = [Exception]
    while waiting:
        cls = waiting.pop()
        if cls in seen:
            continue
        seen.add(cls)
        name = _dotted(cls)
        known[name] = None if name in known else cls
        waiting.extend(type.__subclasses__(cls))
    return known


def _parsed(text: str) -> _Record:
    problem = problem_of(text)
    if problem is not None:
        return _Record("unknown", f"the recorded error cannot be read ({problem})")
    try:
        return _decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        return _Record("unknown", f"the recorded error cannot be read ({error})")


def _rebuilt(cls: type[Exception], record: _Record) -> Exception:
    args = tuple(map(_restored, record.args or ()))
    state = {name: _restored(raw) for name, raw in record.state.items()}
    if issubclass(cls, StepwellError):
        return cls.rebuilt(args, state)
    if _is_made_by_built_in(cls):
        error = cls(*args)
        for name, value in state.items():
            setattr(error, name, value)
        return error
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _stand_in(record: _Record) -> StepFailedError:
    return StepFailedError(
        record.type,
        record.message,
        error_traceback=record.traceback,
        causes=record.causes,
        bases=record.bases,
    )
