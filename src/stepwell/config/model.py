"""What may be configured, and what is wrong with what was."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KEYS: Final = ("app", "database")
APP_FORM: Final = "module:attribute, such as 'shop:app'"
DATABASE_FORM: Final = "a URL, such as 'sqlite:///shop.db'"

_APP: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?")
_SQLITE: Final = "sqlite:///"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the configuration says; None is what it leaves open.

    `root` is the folder of `file`, or the current one without a file. A relative SQLite path is already made absolute.
    """

    app: str | None = None
    database: str | None = None
    root: Path
    file: Path | None = None


def problems_of(values: Mapping[str, object], place: str) -> list[str]:
    """Every mistake in a table of a config file, one sentence each."""
    problems = [f"{place}: {_unknown(key)}" for key in values if key not in KEYS]
    problems += [f"{place}: {key} {problem}" for key in KEYS if (problem := _problem(key, values.get(key))) is not None]
    return problems


def problem_of_variable(variable: str, key: str, value: str) -> str | None:
    """What is wrong with the value of an environment variable."""
    problem = _problem(key, value)
    return None if problem is None else f"environment: {variable} {problem}"


def is_app_spec(text: str) -> bool:
    """Whether the text has the form `module` or `module:attribute`."""
    return _APP.fullmatch(text) is not None


def anchored(url: str, folder: Path) -> str:
    """The URL with a relative SQLite path made absolute from `folder`; any other URL as it is."""
    path = url.removeprefix(_SQLITE)
    if path == url or path in ("", ":memory:"):
        return url
    return f"{_SQLITE}{(folder / path).resolve()}"


def _problem(key: str, value: object) -> str | None:
    if value is None:
        return None
    form = APP_FORM if key == "app" else DATABASE_FORM
    if not isinstance(value, str):
        return f"must be text: {form}; got {value!r}."
    if key == "app" and not is_app_spec(value):
        return f"must be {form}; got {value!r}."
    if key == "database" and "://" not in value:
        return f"must be {form}; got {value!r}."
    return None


def _unknown(key: str) -> str:
    close = difflib.get_close_matches(key, KEYS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown key {key!r}.{hint} Allowed: {', '.join(KEYS)}."
