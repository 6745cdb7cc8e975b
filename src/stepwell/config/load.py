"""Finding, reading and merging the configuration: environment, file, default. Nothing here imports the engine."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from stepwell.config.model import KEYS, Config, anchored, problem_of_variable, problems_of
from stepwell.errors import ConfigError

FILE: Final = "stepwell.toml"
PYPROJECT: Final = "pyproject.toml"
TABLE: Final = "tool.stepwell"
VARIABLES: Final = {key: f"STEPWELL_{key.upper()}" for key in KEYS}


def load_config(start: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration that holds in a folder.

    The file is the first `stepwell.toml`, or `pyproject.toml` with a table `[tool.stepwell]`, in `start` or a folder
    above it. `STEPWELL_APP` and `STEPWELL_DATABASE` go before it; empty ones count as not set. A relative SQLite path
    starts at the file's folder, one from the environment at the current folder.

    Args:
        start: Where the search begins; the current folder by default.
        environ: The environment.

    Raises:
        ConfigError: With every mistake at once, each with its place and what is allowed.
    """
    start = Path.cwd() if start is None else start.resolve()
    found = _find(start)
    variables = {key: environ[name] for key, name in VARIABLES.items() if environ.get(name)}
    problems = found.problems + [
        problem for key, value in variables.items() if (problem := problem_of_variable(VARIABLES[key], key, value))
    ]
    if problems:
        raise ConfigError(_sentence(problems))
    database = variables.get("database")
    return Config(
        app=variables.get("app") or found.values.get("app"),
        database=found.database if database is None else anchored(database, Path.cwd()),
        root=start if found.file is None else found.file.parent,
        file=found.file,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """A file's table as it stands there, and what is wrong with it."""

    file: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    problems: list[str] = field(default_factory=list[str])

    @property
    def database(self) -> str | None:
        url = self.values.get("database")
        return url if url is None or self.file is None else anchored(url, self.file.parent)


def _find(start: Path) -> _Found:
    for folder in (start, *start.parents):
        own = _own_file(folder / FILE)
        shared = _shared_file(folder / PYPROJECT)
        if own and shared:
            problem = f"{folder}: both {FILE} and [{TABLE}] in {PYPROJECT} are there. Keep one of them."
            return _Found(own.file, {}, [problem, *own.problems, *shared.problems])
        if own or shared:
            return own or shared or _Found()
    return _Found()


def _own_file(file: Path) -> _Found | None:
    if not file.is_file():
        return None
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return _Found(file, {}, [f"{file}: cannot be read: {error}."])
    return _Found(file, values, problems_of(values, str(file)))


def _shared_file(file: Path) -> _Found | None:
    """The table in pyproject.toml; a file that does not speak of us is none of our business, be it broken."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    if "stepwell" not in text:
        return None
    try:
        tools = tomllib.loads(text).get("tool")
    except ValueError as error:
        return _Found(file, {}, [f"{file}: cannot be read: {error}."]) if f"[{TABLE}]" in text else None
    table = cast("dict[str, Any]", tools).get("stepwell") if isinstance(tools, dict) else None
    if table is None:
        return None
    place = f"{file} [{TABLE}]"
    if not isinstance(table, dict):
        return _Found(file, {}, [f"{place}: must be a table, got {table!r}."])
    values = cast("dict[str, Any]", table)
    return _Found(file, values, problems_of(values, place))


def _sentence(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "\n  ".join([f"{len(problems)} mistakes in the configuration:", *problems])
