"""How values become JSON text, and come back as what they were.

A value is encoded, decoded and compared. When plain JSON under the annotation brings it back, that is what is stored; where
it does not, the parts that JSON has no word for are tagged (`_tagged.py`). What cannot be brought back at all is refused.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, TypeAlias, cast

import msgspec

from stepwell._preview import preview
from stepwell._returns import return_annotation
from stepwell._tagged import (
    TAG_TEXT,
    Classes,
    Refused,
    as_is,
    from_tagged,
    is_plain,
    is_pydantic,
    is_same,
    shape_of,
    shown,
    to_tagged,
)
from stepwell.errors import InvalidInputError, SerializationError

__all__ = ["NO_ANNOTATION", "Codec", "codec_for", "codec_of_function", "preview"]

NO_ANNOTATION: Final = inspect.Signature.empty
"""Stands for a missing annotation."""

Snapshot: TypeAlias = tuple[str, object]

_NUL: Final = "\\u0000"
_REAL_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_NONE: Final[Snapshot] = ("null", None)
_TRUE: Final[Snapshot] = ("true", True)
_FALSE: Final[Snapshot] = ("false", False)

_decode_plain: Final = msgspec.json.Decoder().decode
_encode_plain: Final = msgspec.json.Encoder().encode


class Codec:
    """JSON text for values that no annotation describes: JSON's own types and those that can be tagged."""

    __slots__ = ("annotation",)

    def __init__(self, annotation: object = NO_ANNOTATION) -> None:
        self.annotation = annotation

    def snapshot(self, value: object) -> Snapshot:
        """Give the text of the value, and the value as that text gives it back.

        Raises:
            SerializationError: The value cannot be stored, or would come back as something else.
        """
        cls = type(value)
        if cls is int:
            return str(value), value
        if value is None:
            return _NONE
        if cls is bool:
            return _TRUE if value else _FALSE
        try:
            data = _encode_plain(value)
            text = data.decode()
            if is_plain(value) and TAG_TEXT not in text and _NUL not in text:
                back = _decode_plain(data)
                if back == value:
                    return text, back
        except (TypeError, ValueError, RecursionError, OverflowError):
            pass
        return self._tagged(value)

    def encode(self, value: object) -> str:
        """Give the text of the value; raises as `snapshot`."""
        return self.snapshot(value)[0]

    def decode(self, text: str) -> object:
        """Give the value that the text stands for.

        Raises:
            SerializationError: The text is not JSON, or does not fit the annotation (any more).
        """
        try:
            if TAG_TEXT in text:
                return from_tagged(_decode_plain(text), self._classes())
            return self._decode(text)
        except Refused as refused:
            raise SerializationError(f"The stored value {_where(refused.path)} {refused.problem}.") from refused
        except msgspec.MsgspecError as error:
            raise SerializationError(f"The stored value does not fit: {_problem(error)}.") from error
        except RecursionError as error:
            raise SerializationError("The stored value is nested too deep.") from error

    def validate(self, value: object) -> str:
        """Give the text of an input that fits the annotation, as an instance or in the shape that it has in JSON.

        Raises:
            InvalidInputError: It does not fit, or cannot be stored.
        """
        try:
            return self.encode(value)
        except SerializationError as error:
            raise InvalidInputError(f"Invalid input: {error}") from error

    def _decode(self, text: str | bytes) -> object:
        return _decode_plain(text)

    def _classes(self) -> Classes:
        return _NO_CLASSES

    def _tagged(self, value: object) -> Snapshot:
        classes = self._classes()
        try:
            raw = to_tagged(value, classes)
            text = _encode_plain(raw).decode()
            if TAG_TEXT not in text and self is not _UNTYPED:
                text = _encode_plain(as_is(raw)).decode()
            back = from_tagged(_decode_plain(text), classes)
            if is_same(value, back):
                return text, back
        except Refused as refused:
            raise SerializationError(self._reason(value, refused)) from None
        except Exception as error:
            raise SerializationError(f"{_a(type(value))} cannot be stored: {type(error).__name__}: {error}.") from error
        raise SerializationError(
            f"{_a(type(value))} cannot be restored later: read back, it is not equal to what was stored. Give the class fields that say all of it, or return plain values."
        )

    def _reason(self, value: object, refused: Refused) -> str:
        cls = refused.subject
        if cls is None:
            return f"{_a(type(value))} cannot be stored: {_where(refused.path)} {refused.problem}."
        subject = _a(cls) + (f" at {_where(refused.path)}" if refused.path else "")
        return f"{subject} cannot be restored later{self._advice(cls)}"

    def _advice(self, cls: type) -> str:
        for base in (bool, int, float, str, bytes, list, tuple, dict, set):
            if issubclass(cls, base) and shape_of(cls) is None and not _is_enum(cls):
                return f" as what it is, a kind of {base.__name__}. Convert it, with {base.__name__}(…)."
        if shape_of(cls) is None and not _is_enum(cls):
            return ": it is not a dataclass, pydantic model, msgspec Struct, NamedTuple or enum. Return one of these, or plain values."
        why = (
            " because no annotation names its class"
            if self.annotation is NO_ANNOTATION
            else f" because the annotation {_name(self.annotation)} does not name its class"
        )
        return f"{why}. Write `-> {cls.__name__}`, or pass returns={cls.__name__}."


class TypedCodec(Codec):
    """JSON text for values of an annotated type."""

    __slots__ = ("_cached_classes", "_decode_typed", "_encode_typed", "_is_direct")

    def __init__(self, annotation: object) -> None:
        super().__init__(annotation)
        classes = self._cached_classes = Classes((annotation,))
        # Sets have no order of their own, and the encoder that sorts them would sort dicts, too.
        order = "deterministic" if classes.has_sets else None
        self._encode_typed = msgspec.json.Encoder(enc_hook=_encode_hook, order=order).encode
        self._decode_typed = _typed_decoder(annotation)
        self._is_direct = self._decode_typed is not None and not (classes.has_sets and classes.has_dicts)

    def snapshot(self, value: object) -> Snapshot:
        decode = self._decode_typed
        if decode is None or not self._is_direct:
            return self._tagged(value)
        try:
            data = self._encode_typed(value)
            back = decode(data)
            if is_same(value, back):
                text = data.decode()
                if TAG_TEXT not in text and _NUL not in text:
                    return text, back
        except Exception:  # noqa: BLE001 - code of the user's classes; the tagged form says what is wrong
            return self._tagged(value)
        return self._tagged(value)

    def validate(self, value: object) -> str:
        return super().validate(self.accept(value))

    def accept(self, value: object) -> object:
        """Give the input as a value of the annotated type.

        Raises:
            InvalidInputError: It does not fit.
        """
        if self._decode_typed is None:
            return _accept_parts(value, self.annotation)
        try:
            back = self._decode_typed(self._encode_typed(value))
        except msgspec.ValidationError as error:
            self._check_storable(value)
            raise InvalidInputError(f"Invalid input: {_problem(error)}") from error
        except Exception as error:
            self._check_storable(value)
            origin = typing.get_origin(self.annotation) or self.annotation
            if isinstance(origin, type) and isinstance(value, origin):
                return value
            raise InvalidInputError(f"Invalid input: expected {_name(self.annotation)}, got {shown(value)}.") from error
        return value if _has_classes_of(back, value) and not is_same(value, back) else back

    def _check_storable(self, value: object) -> None:
        try:
            to_tagged(value, self._cached_classes)
        except Refused as refused:
            if refused.subject is None:
                raise InvalidInputError(f"Invalid input: {_where(refused.path)} {refused.problem}.") from None

    def _decode(self, text: str | bytes) -> object:
        if self._decode_typed is None:
            return self._decode_loosely(text)
        return self._decode_typed(text)

    def _decode_loosely(self, text: str | bytes) -> object:
        try:
            return self.accept(_decode_plain(text))
        except InvalidInputError as error:
            raise SerializationError(f"The stored value does not fit: {error}") from error

    def _classes(self) -> Classes:
        return self._cached_classes


# ------------------------------------------------------------------------------------------------- finding the codec

_UNTYPED: Final = Codec()
_NO_CLASSES: Final = Classes()
_UNTYPED_ANNOTATIONS: Final = (NO_ANNOTATION, Any, object, typing.NoReturn, typing.Never, typing.Self)
_CACHED: Final = 4096

_codecs: Final[dict[Any, Codec]] = {}
_codecs_by_id: Final[dict[int, tuple[object, Codec]]] = {}
_codecs_by_code: Final[dict[int, tuple[object, object, Codec]]] = {}


def codec_for(annotation: object) -> Codec:
    """Give the codec of an annotation; it is made once. What is no type that can be looked up counts as no annotation."""
    try:
        known = _codecs.get(annotation)
    except TypeError:
        return _codec_by_id(annotation)
    if known is None:
        if len(_codecs) >= _CACHED:
            _codecs.clear()
        known = _codecs[annotation] = _made(annotation)
    return known


def _codec_by_id(annotation: object) -> Codec:
    entry = _codecs_by_id.get(id(annotation))
    if entry is None:
        if len(_codecs_by_id) >= _CACHED:
            _codecs_by_id.clear()
        # The entry keeps the annotation alive, so that its id stays its own.
        entry = _codecs_by_id[id(annotation)] = annotation, _made(annotation)
    return entry[1]


def _made(annotation: object) -> Codec:
    if isinstance(annotation, (str, typing.TypeVar, typing.ForwardRef)) or annotation in _UNTYPED_ANNOTATIONS:
        return _UNTYPED
    return TypedCodec(annotation)


def codec_of_function(fn: Callable[..., Any], returns: object = NO_ANNOTATION) -> Codec:
    """Give the codec for what the function returns: `returns` if given, else its return annotation."""
    if returns is not NO_ANNOTATION:
        return codec_for(returns)
    try:
        code = fn.__code__
        annotation = fn.__annotations__.get("return", NO_ANNOTATION)
    except Exception:  # noqa: BLE001 - no plain function, or annotations that cannot be evaluated
        return codec_for(return_annotation(fn))
    if annotation is NO_ANNOTATION:
        return _UNTYPED
    if isinstance(annotation, str):
        # Text means what it means in the function's own module and scope, so the key must be of that function.
        if fn.__closure__ is not None or hasattr(fn, "__wrapped__"):
            return codec_for(return_annotation(fn))
    entry = _codecs_by_code.get(id(code))
    if entry is not None and entry[1] is annotation:
        return entry[2]
    if len(_codecs_by_code) >= _CACHED:
        _codecs_by_code.clear()
    codec = codec_for(return_annotation(fn))
    _codecs_by_code[id(code)] = code, annotation, codec
    return codec


# ------------------------------------------------------------------------------------------------------------ helpers


def _typed_decoder(annotation: Any) -> Callable[[str | bytes], object] | None:
    try:
        if isinstance(annotation, type) and is_pydantic(annotation):
            return functools.partial(_decode_model, annotation)
        return msgspec.json.Decoder(annotation, dec_hook=_decode_hook).decode
    except Exception:  # noqa: BLE001 - a type that msgspec does not take: its values are tagged
        return None


def _encode_hook(value: Any) -> Any:
    cls = type(value)
    if is_pydantic(cls):
        return msgspec.Raw(value.__pydantic_serializer__.to_json(value, by_alias=True, round_trip=True))
    raise NotImplementedError(cls.__name__)


def _decode_hook(cls: Any, raw: Any) -> Any:
    if isinstance(cls, type) and is_pydantic(cls):
        return _decode_model(cls, _encode_plain(raw))
    raise NotImplementedError(str(cls))


def _decode_model(cls: Any, text: str | bytes) -> object:
    try:
        return cls.__pydantic_validator__.validate_json(text)
    except ValueError as error:
        raise msgspec.ValidationError(_pydantic_problem(error)) from error


def _pydantic_problem(error: Any) -> str:
    return "; ".join(
        f"{part['msg']} - at `$" + "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in part["loc"]) + "`"
        for part in error.errors(include_url=False, include_context=False, include_input=False)
    )


def _problem(error: Exception) -> str:
    """msgspec's message with the place in front."""
    parts = [part.rpartition(" - at `") for part in str(error).split("; ")]
    return "; ".join(f"{place[:-1]}: {what}" if what else f"$: {place}" for what, _, place in parts)


def _accept_parts(value: object, annotation: Any) -> object:
    origin = typing.get_origin(annotation)
    if isinstance(origin, type) or isinstance(annotation, type):
        return value
    return value


def _has_classes_of(typed: object, value: object) -> bool:
    """Whether the value has instances wherever the typed one has them, not just their shape."""
    cls = type(typed)
    shape = shape_of(cls)
    if shape is not None or _is_enum(cls):
        if type(value) is not cls:
            return False
        return shape is None or all(map(_has_classes_of, shape.read(typed), shape.read(value)))
    if cls is dict and type(value) is dict:
        typed_items, items = cast("dict[Any, Any]", typed), cast("dict[Any, Any]", value)
        return all(map(_has_classes_of, typed_items.values(), items.values()))
    if cls in (list, tuple) and type(value) is cls:
        return all(map(_has_classes_of, cast("list[Any]", typed), cast("list[Any]", value)))
    return type(value) is cls or not isinstance(typed, (dict, list, tuple, set, frozenset))


def _is_enum(cls: type) -> bool:
    return issubclass(cls, Enum)


def _name(annotation: object) -> str:
    return f"`{annotation.__name__}`" if isinstance(annotation, type) else f"`{annotation}`"


def _a(cls: type) -> str:
    return f"{'An' if cls.__name__[:1].lower() in 'aeiou' else 'A'} {cls.__name__}"


def _where(path: str) -> str:
    return f"${path}"
