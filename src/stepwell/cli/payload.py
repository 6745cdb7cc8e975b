"""The input of a workflow as it is typed: JSON, a file, stdin, or pairs of keys and values."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from stepwell import Workflow
from stepwell.errors import InvalidInputError

_PAIR: Final = re.compile(r"([^\s:=\"'{}\[\]@][^:=]*?)(:=|=)(.*)", re.DOTALL)
FORMS: Final = "JSON text, @file, - for stdin, or pairs: key=text key:=json"


def input_for(workflow: Workflow[Any, Any], words: Sequence[str]) -> Any:
    """The typed input that the words on the command line stand for.

    Raises:
        InvalidInputError: They cannot be read, or do not fit what the workflow takes.
    """
    if not words:
        if workflow.takes_input:
            raise InvalidInputError(f"Workflow {workflow.name!r} takes an input. Give {FORMS}.")
        return None
    value = parse(words)
    return workflow.parse_input(value) if workflow.takes_input else value


def parse(words: Sequence[str], what: str = "INPUT") -> Any:
    """The JSON value that the words stand for; `what` is their name in errors."""
    if len(words) > 1 or _PAIR.fullmatch(words[0]):
        return _object(words)
    (word,) = words
    if word == "-":
        return _json(sys.stdin.buffer.read(), "stdin")
    if word.startswith("@"):
        return _json(_read(word[1:]), word[1:])
    return _json(word, what)


def _object(words: Sequence[str]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for word in words:
        pair = _PAIR.fullmatch(word)
        if pair is None:
            raise InvalidInputError(f"{word!r} is not key=text or key:=json. Give either pairs or one JSON text.")
        key, kind, text = pair.groups()
        if key in value:
            raise InvalidInputError(f"The key {key!r} is given twice.")
        value[key] = text if kind == "=" else _json(text, key)
    return value


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidInputError(f"The input file {path!r} cannot be read: {error.strerror}.") from error


def _json(text: str | bytes, place: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        problem = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidInputError(f"{place} is not JSON: {problem}. Give {FORMS}.") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
