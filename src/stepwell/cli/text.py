"""Text for people: without control characters, and short."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

# C0 and C1 but for tab and newline, separators that end lines elsewhere, marks that turn the direction of writing,
# and halves of surrogate pairs: terminals obey them, or cannot take them.
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAK: Final = re.compile(r"[ \t]*[\n\t][ \t\n]*")


def clean(text: object) -> str:
    """The text without control characters; tabs and line ends stay."""
    return _CONTROL.sub("", str(text))


def clean_line(text: object) -> str:
    """The text without control characters, on one line."""
    return _BREAK.sub(" ", clean(text)).strip()


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON that any terminal may show: what it would obey is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shortened(text: str, width: int) -> str:
    """At most `width` characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def duration_text(seconds: float) -> str:
    """A length of time in one or two units: `48 ms`, `1.2 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `5 d 3 h`."""
    if seconds < 1:
        return f"{max(round(seconds * 1000), 0)} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole, 60, "min", 1, "s")
    if whole < 86_400:
        return _two(whole, 3600, "h", 60, "min")
    return _two(whole, 86_400, "d", 3600, "h")


def moment_text(moment: datetime) -> str:
    """A point in time, to the second; all times are UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%SZ}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the closest known word, with a space before it, or nothing."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _two(whole: int, big: int, big_name: str, small: int, small_name: str) -> str:
    rest = whole % big // small
    return f"{whole // big} {big_name}" + (f" {rest} {small_name}" if rest else "")
