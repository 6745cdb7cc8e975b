"""The stored form of texts that went through `App(codec=…)`.

It is JSON as everything that is stored: `{"$type":"coded","value":"<base64>"}`. No text of the user's begins so, for the
key `$type` is written as a pair there; so what was stored before there was a codec is told apart, and stays readable.
"""

from __future__ import annotations

import base64
import json
from typing import Final

_CODED: Final = '{"$type":"coded","value":"'
_UNREADABLE: Final = '{"$type":"unreadable","value":'
_END: Final = '"}'
NO_CODEC: Final = "it was stored through App(codec=…), and this program has opened the database without that codec"


def is_coded(text: str) -> bool:
    """Whether a codec wrote this."""
    return text.startswith(_CODED)


def wrapped(data: bytes) -> str:
    """The stored text of what a codec has made."""
    return f"{_CODED}{base64.b64encode(data).decode()}{_END}"


def unwrapped(text: str) -> bytes:
    """What the codec has made; ValueError if it is no such text."""
    return base64.b64decode(text[len(_CODED) : -len(_END)], validate=True)


def unreadable(problem: str) -> str:
    """What stands, for people, in the place of a text that the codec could not decode; never stored."""
    return f"{_UNREADABLE}{json.dumps(problem)}}}"


def problem_of(text: str) -> str | None:
    """Why this text cannot be read here; None when it can."""
    if text.startswith(_CODED):
        return NO_CODEC
    if text.startswith(_UNREADABLE):
        return str(json.loads(text)["value"])
    return None
