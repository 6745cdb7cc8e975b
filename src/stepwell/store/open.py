"""From a database URL to a store."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from random import SystemRandom
from typing import Final, Protocol

from stepwell.clock import Clock
from stepwell.errors import ConfigError
from stepwell.ids import Rng
from stepwell.store.protocol import Store, StoreReader

_ALLOWED: Final = "sqlite:///relative/path.db, sqlite:////absolute/path.db or sqlite:// (in memory)"
_POSTGRES: Final = ("postgresql", "postgres")


class OpenStore(Store, StoreReader, Protocol):
    """A connected database: the engine's side and the people's side."""


@asynccontextmanager
async def open_store(url: str, *, clock: Clock, rng: Rng | None = None) -> AsyncGenerator[OpenStore]:
    """Connect, bring the schema up to date, and close at the end.

    A missing file is created (mode 0600) with its folder (0700).

    Args:
        url: `sqlite:///path` or `sqlite://`; a relative path starts at the current folder.
        clock: Leases count in its `uptime`.
        rng: Chance for the jitter of retries.

    Raises:
        ConfigError: The URL is none that this release knows.
        StoreUnavailableError: The database cannot be opened, or is none.
        SchemaVersionError: A newer release has written it.
    """
    store = await connect_store(url, clock=clock, rng=rng)
    try:
        yield store
    finally:
        await store.close()


async def connect_store(url: str, *, clock: Clock, rng: Rng | None = None) -> OpenStore:
    """As `open_store`, for owners that call `close` themselves."""
    path = sqlite_path(resolve_url(url, Path.cwd()))
    # Imported late: a program that only resolves URLs needs no driver.
    from stepwell.store.sqlite.store import SqliteStore

    return await SqliteStore.connect(path, clock=clock, rng=rng if rng is not None else SystemRandom())


def resolve_url(url: str, base_dir: Path) -> str:
    """The URL with its full path; a relative one starts at `base_dir`.

    Raises:
        ConfigError: The URL is none that this release knows.
    """
    path = sqlite_path(url)
    return url if path is None else f"sqlite:///{(base_dir / path).resolve()}"


def sqlite_path(url: str) -> Path | None:
    """The path of an SQLite URL, None for the database in memory.

    Raises:
        ConfigError: The URL is none that this release knows.
    """
    scheme, separator, rest = url.partition("://")
    if scheme in _POSTGRES and separator:
        raise ConfigError(f"PostgreSQL is not available in this release. Use {_ALLOWED}.")
    if scheme != "sqlite" or not separator:
        raise ConfigError(f"database must be a URL such as {_ALLOWED}, got {_masked(url)!r}.")
    if "?" in rest or "#" in rest:
        raise ConfigError(f"A database URL takes no options, got {url!r}. Use {_ALLOWED}.")
    if rest in ("", "/:memory:"):
        return None
    if not rest.startswith("/") or rest == "/" or "\x00" in rest:
        raise ConfigError(f"An SQLite URL has three slashes before its path, got {url!r}. Use {_ALLOWED}.")
    return Path(rest[1:])


def _masked(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}…{rest[rest.rindex('@') :]}" if "@" in rest else url
