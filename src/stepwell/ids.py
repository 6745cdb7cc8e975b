"""Ids, step paths and the digests that are made from them."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import uuid
from typing import Final, Protocol

from stepwell.clock import Clock
from stepwell.errors import InvalidInputError

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = [a + b for a in _ALPHABET for b in _ALPHABET]
_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
_SPECIAL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff/#%\u2028\u2029]")
_QUOTED: Final = {"/": "%2F", "#": "%23", "%": "%25"}


class Rng(Protocol):
    """Chance for ids and jitter; `random.Random` has this shape."""

    def random(self) -> float: ...

    def getrandbits(self, k: int, /) -> int: ...


class Ids:
    """Makes ids that sort by the time of their making: 48 bits of milliseconds, then 80 of chance, like a ULID.

    Ids of one millisecond count up from the first, so that those made by one process always sort in order.
    """

    def __init__(self, clock: Clock, rng: Rng) -> None:
        self._clock = clock
        self._rng = rng
        self._millisecond = -1
        self._prefix = ""
        self._chance = 0

    def new(self) -> str:
        now = self._clock.now() // 1000
        if now > self._millisecond:
            self._millisecond = now
            self._prefix = _base32(now, 5)
            self._chance = self._rng.getrandbits(79)
        else:
            self._chance += 1 + self._rng.getrandbits(32)
        return self._prefix + _base32(self._chance, 8)

    def token(self) -> str:
        """A random token that tells two requests apart."""
        return f"{self._rng.getrandbits(96):024x}"


def _base32(value: int, pairs: int) -> str:
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(10 * (pairs - 1), -1, -10)])


def check_id(value: object, what: str = "id") -> str:
    """Give the id back if it is one, or raise InvalidInputError."""
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        raise InvalidInputError(f"{what} must be 1 to 128 characters of A-Z a-z 0-9 _ . : -, got {_shown(value)}.")
    return value


def quote_step_name(name: object) -> str:
    """The name as it stands in a path: `/`, `#` and `%` encoded, so that it cannot meet a name of the engine."""
    if not isinstance(name, str):
        raise InvalidInputError(f"A step name must be text of 1 to 200 characters, got {_shown(name)}.")
    if not 0 < len(name) <= 200:
        raise InvalidInputError(f"A step name must have 1 to 200 characters, got {len(name)}: {_shown(name)}.")
    if _SPECIAL.search(name) is None:
        return name
    return _SPECIAL.sub(_quote, name)


def check_stream_name(name: object) -> str:
    """Give the name of a stream back if it is one, by the rules for step names, or raise InvalidInputError."""
    return _checked_name(name, "A stream name")


def check_event_name(name: object) -> str:
    """The same for the name of an event."""
    return _checked_name(name, "An event name")


def _checked_name(name: object, what: str) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= 200:
        raise InvalidInputError(f"{what} must be text of 1 to 200 characters, got {_shown(name)}.")
    if any(character not in _QUOTED for character in _SPECIAL.findall(name)):
        raise InvalidInputError(f"{what} must not contain control characters or lone surrogates, got {_shown(name)}.")
    return name


def unquote_step_name(name: str) -> str:
    """The user's own name of the last part of a path."""
    return name.replace("%2F", "/").replace("%23", "#").replace("%25", "%")


def _quote(match: re.Match[str]) -> str:
    found = _QUOTED.get(match[0])
    if found is None:
        raise InvalidInputError(
            f"A step name must not contain control characters or lone surrogates, got {_shown(match.string)}."
        )
    return found


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def digest(*parts: object) -> str:
    """26 base32 characters of the SHA-256 of the parts."""
    return base64.b32encode(_sha256(parts)).decode()[:26].lower()


def derived_uuid(*parts: object) -> uuid.UUID:
    """A version 8 UUID (RFC 9562) made from the parts."""
    raw = bytearray(_sha256(parts)[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(raw))


def derived_random(*parts: object) -> float:
    """A number in [0, 1) made from the parts."""
    return (struct.unpack(">Q", _sha256(parts)[:8])[0] >> 11) / (1 << 53)


def _sha256(parts: tuple[object, ...]) -> bytes:
    return hashlib.sha256("\x00".join(map(str, parts)).encode()).digest()
