"""Opening SQLite files: private modes, pragmas, the schema, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Final, TypeAlias

from stepwell.errors import StoreUnavailableError
from stepwell.store._queries import load_query
from stepwell.store.migrate import Migration, load_migrations, pending

query: Final = partial(load_query, "stepwell.store.sqlite")

Retry: TypeAlias = Callable[[sqlite3.Connection, str], sqlite3.Cursor]
"""Executes a statement and repeats it, with short naps, while another connection holds the lock."""

_MEMORY: Final = ":memory:"
_CACHE_KIB: Final = 4_096
_LARGEST_IDLE_WAL: Final = 16 * 1024 * 1024
_READER_PATIENCE_SECONDS: Final = 5.0

_PRAGMAS: Final = (
    "PRAGMA synchronous = FULL",
    f"PRAGMA cache_size = -{_CACHE_KIB}",
    "PRAGMA temp_store = MEMORY",
    f"PRAGMA journal_size_limit = {_LARGEST_IDLE_WAL}",
)

DATA_ERRORS: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)
"""A value of one row cannot be stored; the database is well."""

_WORDING: Final = {
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database",
    sqlite3.SQLITE_CANTOPEN: "it or its -wal and -shm files cannot be opened or created",
    sqlite3.SQLITE_READONLY: "it cannot be written",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
}


def url_of(path: Path | None) -> str:
    """The URL of a full path."""
    return "sqlite://" if path is None else f"sqlite:///{path}"


def primary_code(error: BaseException) -> int:
    """SQLite's result code without its extension, or -1."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else code & 0xFF


def is_busy(error: BaseException) -> bool:
    """Tell whether another connection held a lock: the statement may be repeated."""
    return primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def unavailable(url: str, error: BaseException) -> StoreUnavailableError:
    """The error for people."""
    return StoreUnavailableError(url, _WORDING.get(primary_code(error), str(error) or type(error).__name__))


def prepare_file(path: Path, *, create: bool) -> None:
    """Make sure that there is a file; a new one may be read by its owner only, an existing one keeps its mode.

    Raises:
        StoreUnavailableError: No file can be there, or it cannot be written.
    """
    try:
        _prepare_file(path, create)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreUnavailableError(url_of(path), f"{error.filename or path}: {reason}") from error


def _prepare_file(path: Path, create: bool) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not create:
            raise
        _create_file(path)
        return
    if stat.S_ISDIR(mode):
        raise StoreUnavailableError(url_of(path), "it is a folder")
    if not os.access(path, os.R_OK | os.W_OK):
        raise StoreUnavailableError(url_of(path), "it cannot be read and written by this user")


def _create_file(path: Path) -> None:
    _create_folder(path.parent)
    # The file appears closed: closing a descriptor of a database drops all locks that this process holds on it (POSIX),
    # and another thread may have opened it as soon as it has its name.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    try:
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)


def _create_folder(folder: Path) -> None:
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)


def connect_writer(
    path: Path | None, retry: Retry, factory: type[sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    """The connection that writes, with the schema up to date."""
    connection = _connect(path, timeout=0.0, factory=factory)
    try:
        # A newer schema, or a file of another program, is refused before anything is changed.
        pending(_migrations(), _schema_version(connection, retry, url_of(path)), url_of(path))
        if path is not None:
            _use_wal(connection, retry, path)
        for pragma in _PRAGMAS:
            retry(connection, pragma)
        upgrade(connection, retry, url_of(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection, retry: Retry, path: Path) -> None:
    if _value(connection, retry, "PRAGMA journal_mode") == "wal":
        return
    if _value(connection, retry, "PRAGMA journal_mode = WAL") != "wal":
        raise StoreUnavailableError(url_of(path), "its file system cannot share memory between processes (WAL)")


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads."""
    connection = _connect(path, timeout=_READER_PATIENCE_SECONDS)
    for pragma in (*_PRAGMAS, "PRAGMA query_only = ON"):
        connection.execute(pragma)
    return connection


def _connect(
    path: Path | None, *, timeout: float, factory: type[sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    # mode=rw: SQLite itself never creates a file; one that has vanished under a running store is an error.
    database = _MEMORY if path is None else f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(
        database,
        uri=path is not None,
        isolation_level=None,
        timeout=timeout,
        cached_statements=256,
        factory=factory,
    )


def upgrade(connection: sqlite3.Connection, retry: Retry, url: str) -> None:
    """Apply the migrations that are missing, each in a transaction of its own.

    Raises:
        SchemaVersionError: A newer release has written the schema.
    """
    while pending(_migrations(), _schema_version(connection, retry, url), url):
        retry(connection, "BEGIN IMMEDIATE")
        try:
            # Read again: another process may have done it while this one waited for the lock.
            rest = pending(_migrations(), _schema_version(connection, retry, url), url)
            if rest:
                _apply(connection, rest[0])
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    connection.execute(query("schema_version_create"))
    for statement in migration.statements:
        connection.execute(statement)
    connection.execute(query("schema_version_insert"), (migration.version, migration.name))


def _schema_version(connection: sqlite3.Connection, retry: Retry, url: str) -> int:
    if not _value(connection, retry, query("schema_version_exists")):
        return 0
    version = _value(connection, retry, query("schema_version"))
    if not isinstance(version, int):
        raise StoreUnavailableError(url, "its table schema_version is another program's")
    return version


def _value(connection: sqlite3.Connection, retry: Retry, statement: str) -> object:
    row: tuple[object] = retry(connection, statement).fetchone()
    return row[0]


@cache
def own_names() -> frozenset[str]:
    """The names of all tables, views and indices of the schema, in lower case."""
    connection = sqlite3.connect(_MEMORY, isolation_level=None)
    try:
        upgrade(connection, sqlite3.Connection.execute, url_of(None))
        return frozenset(name.lower() for (name,) in connection.execute("SELECT name FROM sqlite_master"))
    finally:
        connection.close()


@cache
def _migrations() -> list[Migration]:
    return load_migrations("stepwell.store.sqlite")
