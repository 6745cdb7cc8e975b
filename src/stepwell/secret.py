"""`Secret`: a value that nobody may see."""

from __future__ import annotations

import hmac
import typing
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast, final

from stepwell._revealed import remember, without_revealed
from stepwell.errors import SerializationError

T_co = TypeVar("T_co", covariant=True)

MASK: Final = "**********"
"""What stands wherever a secret would be shown."""


class _Lost:
    """The type of the value of a secret that was not kept."""


_LOST: Final = _Lost()


@final
class Secret(Generic[T_co]):
    """A value that is stored encrypted and shown as `**********`: a token, a password, a card number.

    Wrap it as soon as you have it, pass it on wrapped, and call `reveal` only where it is used. `repr`, `str`, previews,
    logs, error records and the command line show the mask. In annotations write `Secret[str]`: input that comes as plain
    JSON is wrapped then.

    Two secrets are equal if their values are. A pickled secret holds its value in clear: that is how it reaches processes
    of your own, so keep no such pickles.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T_co, /) -> None:
        self._value = value

    def reveal(self) -> T_co:
        """The value itself.

        The last texts that were revealed are masked in error records and in stepwell's own logs. That is a safety net
        with holes: it knows no text that your code derives from a secret, and none of fewer than six characters.

        Raises:
            SerializationError: The secret comes from a recorded error; those are not kept.
        """
        value = peek(self)
        remember(value)
        return value

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str, /) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object, /) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, others = self._value, cast("Secret[object]", other)._value
        if type(mine) is type(others) and isinstance(mine, (str, bytes)):
            # In constant time, so that how long it takes tells nothing.
            return hmac.compare_digest(_octets(mine), _octets(cast("str | bytes", others)))
        return bool(mine == others)

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> Any:
        if self._value is _LOST:
            return "LOST"
        # Another process may reveal it, and send back an error that tells it: this one must know what to mask.
        remember(self._value)
        return _unpickled, (self._value,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """For pydantic: values are checked as what the secret holds, and wrapped; JSON shows the mask."""
        from pydantic_core import core_schema

        held = typing.get_args(source)
        return core_schema.with_info_wrap_validator_function(
            _wrapped,
            handler.generate_schema(held[0]) if held else core_schema.any_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(
                _pydantic_text, info_arg=True, when_used="json"
            ),
        )


LOST: Final[Secret[Any]] = Secret(_LOST)
"""Stands in recorded errors for the secrets that they held."""


def peek(secret: Secret[T_co]) -> T_co:
    """The value, for code that does not show it to anybody."""
    value = secret._value  # pyright: ignore[reportPrivateUsage]
    if value is _LOST:
        raise SerializationError("This secret came with a recorded error. Errors keep no secrets: look it up again.")
    return value


def without_secrets(value: Any) -> Any:
    """A copy of a built-in value for an error record: no secret in it, and no text that was revealed."""
    cls = type(cast("object", value))
    if cls is Secret:
        return LOST
    if cls is str:
        return without_revealed(value, MASK)
    if cls is dict:
        return {without_secrets(key): without_secrets(item) for key, item in value.items()}
    if cls in (list, tuple, set, frozenset):
        parts = [without_secrets(item) for item in value]
        return parts if cls is list else cast("Callable[[list[Any]], Any]", cls)(parts)
    return value


def _unpickled(value: Any) -> Secret[Any]:
    remember(value)
    return Secret(value)


def _wrapped(value: Any, check: Callable[[Any], Any], info: Any) -> Secret[Any]:
    read = getattr(info.context, "read_secret", None)
    if read is not None and (stored := read(value)) is not None:
        return stored
    return Secret(check(peek(cast("Secret[Any]", value)) if isinstance(value, Secret) else value))


def _pydantic_text(secret: Secret[Any], info: Any) -> Any:
    write = getattr(info.context, "write_secret", None)
    if write is not None:
        return write(secret)
    if info.round_trip:
        raise ValueError("A Secret is not written as JSON")
    return MASK


def _octets(value: str | bytes) -> bytes:
    return value.encode(errors="surrogatepass") if isinstance(value, str) else value
