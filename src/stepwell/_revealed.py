"""Texts that were taken out of secrets, so that error records and our logs can be kept clear of them.

A net, not a wall: code that has a secret in hand can write it anywhere. Only the last few hundred texts are known.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

KEPT: Final = 256
"""How many texts are known: each error record is searched for all of them."""
SHORTEST: Final = 6
"""Shorter ones would be found in innocent words."""
_DEPTH: Final = 3
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")

_texts: Final[dict[str, None]] = {}
_lock: Final = threading.Lock()


def remember(value: object) -> None:
    """From now on the texts in this value are masked."""
    for text in _texts_in(value, _DEPTH):
        with _lock:
            is_new = text not in _texts
            _texts.pop(text, None)
            _texts[text] = None
            if len(_texts) > KEPT:
                del _texts[next(iter(_texts))]
        if is_new:
            _guard_logs()


def without_revealed(text: str, mask: str) -> str:
    """The text with a mask in the place of each known one."""
    if not _texts:
        return text
    with _lock:
        known = sorted(_texts, key=len, reverse=True)
    for secret in known:
        if secret in text:
            text = text.replace(secret, mask)
    return text


def _texts_in(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, (bytes, bytearray)):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        if len(value) >= SHORTEST:
            yield value
    elif depth:
        for part in _parts(value):
            yield from _texts_in(part, depth - 1)


def _parts(value: Any) -> Iterable[object]:
    if isinstance(value, dict):
        return list(cast("dict[object, object]", value).values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(cast("list[object]", value))
    slots: Any = getattr(type(cast("object", value)), "__slots__", ())
    names = [*((slots,) if isinstance(slots, str) else slots), *getattr(value, "__dict__", ())]
    return [getattr(value, name, None) for name in names]


class _Guard(logging.Filter):
    """Masks what it can in the records of our own loggers."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except Exception:  # a record that cannot be formatted: logging itself tells of it
            return True
        clean = without_revealed(text, "**********")
        if clean != text:
            record.msg, record.args = clean, ()
        if record.exc_info and not record.exc_text:
            text = _formatter.formatException(record.exc_info)
            clean = without_revealed(text, "**********")
            if clean != text:
                # What stands here is not formatted again, so no formatter takes out what could forge lines.
                record.exc_text = _CONTROL.sub("", clean)
        return True


_guard: Final = _Guard()
_formatter: Final = logging.Formatter()


def _guard_logs() -> None:
    for name in ("stepwell", *[name for name in logging.root.manager.loggerDict if name.startswith("stepwell.")]):
        logging.getLogger(name).addFilter(_guard)
