"""Numbered SQL migrations, the same way for every store.

A migration is a file `0007_add_streams.sql` in the store's package: immutable once released, applied in one
transaction together with its row in `schema_version`, so it happens wholly or not at all. How a store locks and
executes is its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Final

from msgspec import Struct

from stepwell.errors import SchemaVersionError

_FILE: Final = re.compile(r"(\d{4})_(\w+)\.sql", re.ASCII)


class Migration(Struct, frozen=True):
    """One step of the schema: from `version` - 1 to `version`."""

    version: int
    name: str
    statements: tuple[str, ...]


def load_migrations(package: str) -> list[Migration]:
    """The migrations of a store's package, in order and without a gap."""
    found = sorted(_read(package), key=lambda migration: migration.version)
    versions = [migration.version for migration in found]
    if versions != list(range(1, len(found) + 1)):
        raise ValueError(f"Migrations of {package} must be numbered 1, 2, 3, …; got {versions}.")
    return found


def pending(migrations: Sequence[Migration], found: int, database: str) -> Sequence[Migration]:
    """What is left to apply on a schema of version `found` (0: none yet).

    Raises:
        SchemaVersionError: The schema is newer than this release.
    """
    if found > len(migrations):
        raise SchemaVersionError(database, found, len(migrations))
    return migrations[found:]


def split_statements(script: str) -> tuple[str, ...]:
    """The statements of a script: each ends with a semicolon that is the last character of its line."""
    parts = re.split(r";[ \t]*$", script, flags=re.MULTILINE)
    return tuple(part.strip() for part in parts if _has_code(part))


def _has_code(part: str) -> bool:
    return any(line.strip() and not line.lstrip().startswith("--") for line in part.splitlines())


def _read(package: str) -> Iterator[Migration]:
    for entry in files(package).joinpath("migrations").iterdir():
        match = _FILE.fullmatch(entry.name)
        if match is not None:
            yield Migration(int(match[1]), match[2], split_statements(entry.read_text(encoding="utf-8")))
