"""How values become JSON text, and come back as what they were.

A value is encoded, decoded and compared. When plain JSON under the annotation brings it back, that is what is stored;
where it does not, the parts that JSON has no word for are tagged (`_tagged.py`). What cannot come back is refused.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterable
from functools import cache, partial
from types import NoneType
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec

from stepwell._accept import accept_parts, accept_secret, name_of
from stepwell._preview import preview
from stepwell._returns import return_annotation
from stepwell._same import is_plain, is_same
from stepwell._shape import Classes, is_enum, is_pydantic, shape_of, with_defaults
from stepwell._tagged import TAG_TEXT, Refused, Vault, a, as_is, from_tagged, has_only_secrets, to_tagged
from stepwell.errors import InvalidInputError, PayloadCodecError, SerializationError
from stepwell.secret import Secret

__all__ = ["NO_ANNOTATION", "Codec", "codec_for", "codec_of_function", "names_secrets", "preview"]

NO_ANNOTATION: Final = inspect.Signature.empty
"""Stands for a missing annotation."""

Snapshot: TypeAlias = tuple[str, object]
"""The text of a value, and the value as that text gives it back."""

_NUL: Final = "\\u0000"
_NONE: Final[Snapshot] = ("null", None)
_TRUE: Final[Snapshot] = ("true", True)
_FALSE: Final[Snapshot] = ("false", False)
_INT64: Final = 1 << 63

_decode_plain: Final = msgspec.json.Decoder().decode
_encode_plain: Final = msgspec.json.Encoder().encode


class Codec:
    """JSON text for values that no annotation describes: JSON's own types and those that can be tagged."""

    __slots__ = ("annotation", "has_secrets")

    def __init__(self, annotation: object = NO_ANNOTATION) -> None:
        self.annotation = annotation
        self.has_secrets = False

    def snapshot(self, value: object) -> Snapshot:
        """Give the text of the value, and the value as that text gives it back.

        Raises:
            SerializationError: The value cannot be stored, or would come back as something else.
            SecretKeyError: It holds a secret, and there is no key.
        """
        cls = type(value)
        if cls is int and -_INT64 <= cast("int", value) < _INT64:
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
        except (TypeError, ValueError, OverflowError, RecursionError):
            return self._tagged(value)
        return self._tagged(value)

    def encode(self, value: object) -> str:
        """Give the text of the value; raises as `snapshot`."""
        return self.snapshot(value)[0]

    def decode(self, text: str) -> object:
        """Give the value that the text stands for.

        Raises:
            SerializationError: The text is not JSON, or does not fit the annotation (any more).
            SecretKeyError: It holds a secret that cannot be decrypted.
        """
        try:
            if TAG_TEXT in text and not (self.has_secrets and has_only_secrets(text)):
                return from_tagged(_decode_plain(text), self._classes())
            return self._decode(text)
        except PayloadCodecError:
            raise
        except Refused as refused:
            raise SerializationError(f"The stored value does not fit: {refused}.") from refused
        except msgspec.MsgspecError as error:
            raise SerializationError(f"The stored value does not fit: {_refused(error)}.") from error
        except RecursionError as error:
            raise SerializationError("The stored value does not fit: it is nested too deep.") from error
        except Exception as error:
            raise SerializationError(f"The stored value does not fit: {type(error).__name__}: {error}") from error

    def validate(self, value: object) -> str:
        """Give the text of an input that fits the annotation, as an instance or in the shape that it has in JSON.

        Raises:
            InvalidInputError: It does not fit, or cannot be stored.
        """
        try:
            accepted = self.accept(value)
        except Refused as refused:
            raise InvalidInputError(f"Invalid input: {refused}.") from refused
        try:
            return self.encode(accepted)
        except PayloadCodecError:
            raise
        except SerializationError as error:
            raise InvalidInputError(f"Invalid input: {self.refusal(accepted, 'input') or error}") from error

    def receive(self, text: str) -> object:
        """Give the value of a text that somebody else wrote: defaults that he left out become part of it.

        Raises:
            SerializationError: The text does not fit the annotation.
        """
        return with_defaults(self.decode(text))

    def accept(self, value: object) -> object:
        """Give the input as a value of the annotated type.

        Raises:
            Refused: It does not fit.
        """
        return value

    def _decode(self, text: str) -> object:
        return _decode_plain(text)

    def _classes(self) -> Classes:
        return _NO_CLASSES

    def _tagged(self, value: object) -> Snapshot:
        classes = self._classes()
        try:
            raw = to_tagged(value, classes)
            text = _encode_plain(raw).decode()
            if self.has_secrets or (TAG_TEXT not in text and not self._gives_back(value, text)):
                text = _encode_plain(as_is(raw)).decode()
            back = self.decode(text)
            if is_same(value, back):
                return text, back
        except PayloadCodecError:
            raise
        except Refused as refused:
            raise SerializationError(f"{refused}{self._advice(refused.cls, 'return')}.") from None
        except Exception as error:
            raise SerializationError(f"{a(type(value))} cannot be stored: {type(error).__name__}: {error}") from error
        raise SerializationError(
            f"{a(type(value))} cannot be restored later: read back, it is not equal to what was stored. "
            "Keep all of its state in fields, or return plain values."
        )

    def _gives_back(self, value: object, text: str) -> bool:
        try:
            return is_same(value, self.decode(text))
        except SerializationError:
            return False

    def refusal(self, value: object, use: Literal["input", "emit"]) -> str | None:
        """Why the value cannot be stored, with advice for its use; None if another reason than its types is to blame."""
        try:
            to_tagged(value, self._classes())
        except Refused as refused:
            return f"{refused}{self._advice(refused.cls, use)}."
        return None

    def _advice(self, cls: type | None, use: Literal["return", "input", "emit"]) -> str:
        """What ends the sentence "A Basket cannot be restored later"."""
        if cls is None:
            return ""
        if shape_of(cls) is not None or is_enum(cls):
            name = cls.__name__
            if use == "emit":
                return " because a stream has no annotation. Emit plain values, such as a dict of its fields"
            write = f"`-> {name}`, or pass returns={name}" if use == "return" else f"`input: {name}`"
            if self.annotation is not NO_ANNOTATION:
                return f" because {name_of(self.annotation)} does not name that class. Write {write}"
            missing = "the function has no return annotation" if use == "return" else "the input has no annotation"
            return f" because {missing}. Write {write}"
        for base in (int, float, str, bytes, list, tuple, dict, set):
            if issubclass(cls, base):
                return f" as the kind of {base.__name__} that it is. Convert it with {base.__name__}(…)"
        return (
            " because its class is not a dataclass, pydantic model, msgspec Struct, NamedTuple or enum. "
            "Make it one of these, or use plain values"
        )


class TypedCodec(Codec):
    """JSON text for values of an annotated type."""

    __slots__ = ("_decode_stored", "_decode_typed", "_encode_typed", "_is_direct", "_known", "_only_json")

    def __init__(self, annotation: object) -> None:
        super().__init__(annotation)
        self._known = Classes((annotation,))
        self.has_secrets = self._known.has_secrets
        self._only_json = self._known.only_json
        # Sets have no order of their own; the encoder that sorts them would sort dicts as well.
        order = "deterministic" if self._known.has_sets else None
        self._encode_typed = msgspec.json.Encoder(enc_hook=_encode_hook, order=order).encode
        self._decode_typed = self._decode_stored = _typed_decoder(annotation)
        if self.has_secrets:
            self._decode_stored = _typed_decoder(annotation, Vault(self._known))
        mixed = self._known.has_sets and self._known.has_dicts
        self._is_direct = self._decode_typed is not None and not mixed and not self.has_secrets

    def snapshot(self, value: object) -> Snapshot:
        decode = self._decode_typed
        if self.has_secrets:
            return self._snapshot_secrets(self._wrapped(value))
        if decode is None or not self._is_direct:
            return self._tagged(value)
        try:
            data = self._encode_typed(value)
            back = decode(data)
            if (is_plain(value) and back == value) if self._only_json else is_same(value, back):
                text = data.decode()
                if TAG_TEXT not in text and _NUL not in text:
                    return text, back
        except Exception:  # code of the user's classes may raise anything; the tagged form says what is wrong
            return self._tagged(value)
        return self._tagged(value)

    def _snapshot_secrets(self, value: object) -> Snapshot:
        """Plain JSON where only the secrets are tagged, if the annotation brings that back; so it can be read without it."""
        decode = self._decode_stored
        if decode is None or (self._known.has_sets and self._known.has_dicts):
            return self._tagged(value)
        vault = Vault(self._known)
        order = "deterministic" if self._known.has_sets else None
        try:
            data = msgspec.json.Encoder(enc_hook=partial(_encode_hook, vault=vault), order=order).encode(value)
            text, back = data.decode(), decode(data)
            if is_same(value, back) and text.count(TAG_TEXT) == vault.written and _NUL not in text:
                return text, back
        except PayloadCodecError:
            raise
        except Exception:  # as in `snapshot`
            return self._tagged(value)
        return self._tagged(value)

    def _wrapped(self, value: object) -> object:
        """The value with a Secret wherever the annotation says so: what was left unwrapped must not be stored in clear."""
        try:
            return self._accept_parts(value)
        except Refused as refused:
            raise SerializationError(
                f"{a(type(value))} is not what {name_of(self.annotation)} says, which names secrets: {refused}."
            ) from None

    def accept(self, value: object) -> object:
        decode = self._decode_typed
        if decode is None:
            return self._accept_parts(value)
        try:
            back = decode(self._encode_typed(value))
        except msgspec.ValidationError as error:
            self._check_storable(value)
            raise _refused(error) from error
        except Exception:  # a part that JSON cannot say at all, perhaps where anything is allowed
            return self._accept_parts(value)
        if is_same(value, back):
            return value
        self._check_storable(value)
        if is_plain(value) or (is_pydantic(self.annotation) and not isinstance(value, cast("type", self.annotation))):
            return with_defaults(back)
        return self._accept_parts(value)

    def _accept_parts(self, value: object) -> object:
        self._check_storable(value)
        return accept_parts(value, self.annotation, _accept)

    def _check_storable(self, value: object) -> None:
        """Tell of NaN and the like as what they are, not of the `null` that they become in JSON."""
        try:
            to_tagged(value, self._known)
        except Refused as refused:
            if refused.cls is None:
                raise

    def _decode(self, text: str) -> object:
        if self._decode_stored is None:
            return self.accept(_decode_plain(text))
        return self._decode_stored(text)

    def _classes(self) -> Classes:
        return self._known


# ------------------------------------------------------------------------------------------------- finding the codec

UNTYPED: Final = Codec()
_NO_CLASSES: Final = Classes()
_NO_TYPES: Final[tuple[object, ...]] = (NO_ANNOTATION, Any, object, typing.NoReturn, typing.Never)
_KEPT: Final = 4096

_codecs: Final[dict[Any, Codec]] = {}
# The values keep what the ids belong to alive, so that an id stays its own.
_codecs_by_id: Final[dict[int, tuple[object, Codec]]] = {}
_codecs_by_code: Final[dict[int, tuple[object, object, Codec]]] = {}


def codec_for(annotation: object) -> Codec:
    """Give the codec of an annotation; it is made once. What is no type, or cannot be resolved, counts as untyped."""
    try:
        known = _codecs.get(annotation)
    except TypeError:  # not hashable
        return _codec_by_id(annotation)
    if known is None:
        if len(_codecs) >= _KEPT:
            _codecs.clear()
        known = _codecs[annotation] = _made(annotation)
    return known


def codec_of_option(returns: object) -> Codec:
    """Give the codec of what a caller has passed as `returns=`.

    Raises:
        InvalidInputError: It is no type.
    """
    if not (returns is None or any(returns is known for known in _NO_TYPES) or _is_type(returns)):
        raise InvalidInputError(f"returns must be a type such as Order, list[Order] or int | None, got {returns!r}.")
    return codec_for(returns)


def _codec_by_id(annotation: object) -> Codec:
    entry = _codecs_by_id.get(id(annotation))
    if entry is None:
        if len(_codecs_by_id) >= _KEPT:
            _codecs_by_id.clear()
        entry = _codecs_by_id[id(annotation)] = annotation, _made(annotation)
    return entry[1]


def _made(annotation: object) -> Codec:
    if annotation is None:
        return codec_for(NoneType)
    if any(annotation is known for known in _NO_TYPES) or not _is_type(annotation):
        return UNTYPED
    return TypedCodec(annotation)


def _is_type(annotation: object) -> bool:
    return (
        isinstance(annotation, type)
        or typing.get_origin(annotation) is not None
        or hasattr(annotation, "__supertype__")
        or hasattr(annotation, "__value__")
    )


def names_secrets(annotations: Iterable[object]) -> bool:
    """Whether one of the annotations, as far as it can be resolved now, names Secret. Nothing is kept of it."""
    return Classes(annotations).has_secrets


def codec_of_function(fn: Callable[..., Any], returns: object = NO_ANNOTATION) -> Codec:
    """Give the codec for what the function returns: of `returns` if given, else of its return annotation.

    Found by the function's code, not the function: closures are made anew all the time.
    """
    if returns is not NO_ANNOTATION:
        return codec_of_option(returns)
    try:
        if hasattr(fn, "__wrapped__"):
            # The code of a decorator's wrapper belongs to many functions.
            fn = inspect.unwrap(fn)
        code = fn.__code__
        annotation = fn.__annotations__.get("return", NO_ANNOTATION)
    except Exception:  # no plain function, or annotations that cannot be evaluated
        return codec_for(return_annotation(fn))
    if annotation is NO_ANNOTATION:
        return UNTYPED
    entry = _codecs_by_code.get(id(code))
    if entry is not None and entry[1] is annotation:
        return entry[2]
    if isinstance(annotation, str) and any(name in annotation for name in code.co_freevars):
        # The text may mean something else in the next closure.
        return codec_for(return_annotation(fn))
    if len(_codecs_by_code) >= _KEPT:
        _codecs_by_code.clear()
    codec = codec_for(return_annotation(fn))
    _codecs_by_code[id(code)] = code, annotation, codec
    return codec


# ----------------------------------------------------------------------------------------------- msgspec and pydantic


def _typed_decoder(annotation: Any, vault: Vault | None = None) -> Callable[[str | bytes], object] | None:
    if isinstance(annotation, type) and is_pydantic(annotation):
        return partial(_decode_model, annotation, vault=vault)
    try:
        hook = _decode_hook if vault is None else partial(_decode_hook, vault=vault)
        return msgspec.json.Decoder(annotation, dec_hook=hook).decode
    except Exception:  # a type that msgspec does not take: its values are tagged
        return None


def _encode_hook(value: Any, vault: Vault | None = None) -> Any:
    if is_pydantic(type(value)):
        dump = value.__pydantic_serializer__.to_json
        return msgspec.Raw(dump(value, round_trip=True, context=vault, **_dump_options()))
    if vault is not None and isinstance(value, Secret):
        return vault.write_secret(cast("Secret[Any]", value))
    for base, plain in _PLAIN_OF.items():
        if isinstance(value, base):
            return plain(value)
    raise NotImplementedError(type(value).__name__)


def _decode_hook(cls: Any, raw: Any, vault: Vault | None = None) -> Any:
    if cls is Secret or typing.get_origin(cls) is Secret:
        stored = None if vault is None else vault.read_secret(raw)
        if stored is not None:
            return stored
        try:
            return accept_secret(raw, typing.get_args(cls), _accept)
        except Refused as refused:
            raise ValueError(refused.problem) from None
    if is_pydantic(cls):
        try:
            return cls.__pydantic_validator__.validate_json(_encode_plain(raw), context=vault, **_load_options())
        except ValueError as error:
            # msgspec adds the place of the model to the message.
            raise ValueError(_pydantic_problem(error)) from error
    if type(raw) in _PLAIN_OF and issubclass(cls, type(raw)):
        return type(raw).__new__(cls, raw)
    raise NotImplementedError(name_of(cls))


@cache
def _load_options() -> dict[str, bool]:
    """Aliases may differ between reading and writing, so fields go by their names, where pydantic can (since 2.11)."""
    version = tuple(map(int, sys.modules["pydantic"].VERSION.split(".")[:2]))
    return {"by_alias": True, "by_name": True} if version >= (2, 11) else {}


def _dump_options() -> dict[str, bool]:
    return {"by_alias": not _load_options()}


# A subclass such as `class UserId(str)` is stored as what it is below, and its annotation makes it one again.
_PLAIN_OF: Final[dict[type, Callable[[Any], object]]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
}


def _decode_model(cls: Any, text: str | bytes, vault: Vault | None = None) -> object:
    try:
        return cls.__pydantic_validator__.validate_json(text, context=vault, **_load_options())
    except ValueError as error:
        raise msgspec.ValidationError(_pydantic_problem(error)) from error


def _pydantic_problem(error: Any) -> str:
    parts = error.errors(include_url=False, include_context=False, include_input=False)
    first = parts[0]
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"])
    more = f" (and {len(parts) - 1} more)" if len(parts) > 1 else ""
    return f"{first['msg']}{more} - at `${place}`"


def _refused(error: Exception) -> Refused:
    """msgspec's message, taken apart: the places come last in it, from the inside out."""
    problem, *places = str(error).split(" - at `")
    refused = Refused("", problem)
    for place in places:
        refused = refused.under(place.rstrip("`").removeprefix("$"))
    return refused


def _accept(value: object, annotation: Any) -> object:
    return codec_for(annotation).accept(value)
