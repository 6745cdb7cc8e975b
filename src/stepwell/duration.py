"""Durations as users write them, in microseconds as the store keeps them."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final, TypeAlias

from stepwell.errors import InvalidInputError

Duration: TypeAlias = timedelta | float | str
"""A timedelta, a number of seconds, or text such as `"30 seconds"`, `"5 min"`, `"1 day"`, `"1h30m"`."""

MAX_US: Final = 5_000 * 365 * 86_400 * 1_000_000
"""5,000 years: a moment that far from now still has a date, which ends with the year 9999."""

_SECOND: Final = 1_000_000
_UNITS: Final[dict[str, int]] = {
    name: us
    for names, us in {
        ("ms", "millisecond", "milliseconds"): 1_000,
        ("s", "sec", "secs", "second", "seconds"): _SECOND,
        ("m", "min", "mins", "minute", "minutes"): 60 * _SECOND,
        ("h", "hr", "hrs", "hour", "hours"): 3_600 * _SECOND,
        ("d", "day", "days"): 86_400 * _SECOND,
        ("w", "week", "weeks"): 7 * 86_400 * _SECOND,
    }.items()
    for name in names
}
_PART: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)", re.ASCII | re.IGNORECASE)
_ACCEPTED: Final = (
    "a timedelta, a number of seconds, or text such as '30 seconds', '500 ms', '5 min', '1.5 hours', '1 day', "
    "'2 weeks' or '1h30m'"
)


def to_us(value: Duration, *, what: str = "duration", minimum: int | None = 0) -> int:
    """Give the duration in whole microseconds.

    Args:
        value: A timedelta, a number of seconds, or text.
        what: How error messages call it.
        minimum: The least that is allowed, in microseconds; None allows negative ones.

    Raises:
        InvalidInputError: It is none of the accepted forms, below the minimum, or longer than 5,000 years.
    """
    us = _microseconds(value)
    if us is None:
        raise InvalidInputError(f"{what} must be {_ACCEPTED}, got {_shown(value)}.")
    if minimum is not None and us < minimum:
        raise InvalidInputError(f"{what} must {_at_least(minimum)}, got {_shown(value)}.")
    if not -MAX_US <= us <= MAX_US:
        raise InvalidInputError(f"{what} must be at most 5,000 years, got {_shown(value)}.")
    return us


def _microseconds(value: object) -> int | None:
    if isinstance(value, str):
        return _parsed(value) if len(value) <= 100 else None
    if isinstance(value, timedelta):
        return value // timedelta(microseconds=1)
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value * _SECOND
    if isinstance(value, float) and math.isfinite(value):
        return round(value * _SECOND) if abs(value) < MAX_US else int(value) * _SECOND
    return None


@lru_cache(maxsize=1024)
def _parsed(text: str) -> int | None:
    total, end, seen = Decimal(0), 0, set[int]()
    stripped = text.rstrip()
    while end < len(stripped):
        part = _PART.match(stripped, end)
        unit = None if part is None else _UNITS.get(part[2].lower())
        if part is None or unit is None or unit in seen:
            return None
        seen.add(unit)
        total += Decimal(part[1]) * unit
        end = part.end()
    return round(total) if seen else None


def _at_least(minimum: int) -> str:
    if minimum == 0:
        return "not be negative"
    return "be positive" if minimum == 1 else f"be at least {minimum / _SECOND:g} s"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # an int of more than 4,300 digits, or a repr of the user's own
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 120 else f"{text[:117]}..."
