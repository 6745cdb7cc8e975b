"""Client transitions in a transaction of the user's own, on the user's own connection to the same file."""

from __future__ import annotations

import inspect
import os
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from stepwell.errors import InvalidInputError, StoreUnavailableError
from stepwell.store.sqlite.apply import cannot_store, write_for_clients
from stepwell.store.sqlite.connection import DATA_ERRORS, is_busy, own_names, query, unavailable, url_of
from stepwell.store.transitions import ClientTransition, Verdict

_WRAPPERS: Final = 4
"""How many objects may stand around a driver's connection: a session, its connection, the pool's, an adapter."""


def enlist(connection: object, path: Path | None, batch: Sequence[ClientTransition]) -> list[Verdict]:
    """See `Store.enlist`. `path` is that of the store's database."""
    own = _driver_connection(connection)
    if path is None:
        raise InvalidInputError("connection= needs a database file: no other connection reaches sqlite:// in memory.")
    with _plain_rows(own), _telling(path):
        _check_usable(own)
        _check_database(own, path)
        began = _begin(own)
        try:
            verdicts = _write(own, batch)
        except BaseException:
            _undo(own, began)
            raise
        if None not in verdicts:
            _undo(own, began)
        return verdicts


def _driver_connection(connection: object) -> sqlite3.Connection:
    """The driver's connection inside what an ORM or a pool hands out (SQLAlchemy, Django)."""
    found: Any = connection
    for _ in range(_WRAPPERS):
        if isinstance(found, sqlite3.Connection):
            return found
        inner = getattr(found, "driver_connection", None) or getattr(found, "connection", None)
        found = inner() if callable(inner) and not isinstance(inner, sqlite3.Connection) else inner
        if inspect.iscoroutine(found):
            # That of an async session, whose driver lives in a thread of its own.
            found.close()
            break
    if isinstance(found, sqlite3.Connection):
        return found
    raise InvalidInputError(
        f"connection must be a sqlite3.Connection, or an SQLAlchemy connection or session on one, got {connection!r}."
    )


@contextmanager
def _plain_rows(own: sqlite3.Connection) -> Generator[None]:
    """Rows as tuples, whatever the connection makes of them for its owner."""
    factories = own.row_factory, own.text_factory
    own.row_factory, own.text_factory = None, str
    try:
        yield
    finally:
        own.row_factory, own.text_factory = factories


@contextmanager
def _telling(path: Path) -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if is_busy(error):
            problem = "another connection holds its write lock, or has written since your transaction began; roll back and try again"
            raise StoreUnavailableError(url_of(path), problem) from error
        raise unavailable(url_of(path), error) from error


def _check_usable(own: sqlite3.Connection) -> None:
    try:
        own.execute("SELECT 1")
    except sqlite3.ProgrammingError as error:
        raise InvalidInputError(f"connection cannot be used here: {error}") from error


def _check_database(own: sqlite3.Connection, path: Path) -> None:
    files = {name: file for _, name, file in own.execute("PRAGMA database_list")}
    file = files.get("main") or ""
    if not _is_same(file, path):
        raise InvalidInputError(
            f"connection is open on {file or 'a database in memory'!r}, and stepwell's database is {str(path)!r}. Both must be one file, so that they share a transaction."
        )
    if "temp" in files:
        shadows = {name for (name,) in own.execute("SELECT LOWER(name) FROM temp.sqlite_master")} & own_names()
        if shadows:
            raise InvalidInputError(
                f"connection has temporary tables with the names of stepwell's: {', '.join(sorted(shadows))}. Give them other names."
            )


def _is_same(file: str, path: Path) -> bool:
    try:
        return bool(file) and os.path.samefile(file, path)
    except OSError:
        return False


def _begin(own: sqlite3.Connection) -> bool:
    """Begin a transaction as the connection's own first statement would; False if one is open."""
    if own.in_transaction:
        return False
    if own.isolation_level is None or getattr(own, "autocommit", None) is True:
        raise InvalidInputError(
            "connection has no open transaction and commits each statement by itself. Execute BEGIN first, or leave connection= out."
        )
    own.execute(f"BEGIN {own.isolation_level}")
    return True


def _undo(own: sqlite3.Connection, began: bool) -> None:
    """Nothing was written: end the transaction if it was begun for that."""
    if began and own.in_transaction:
        own.execute("ROLLBACK")


def _write(own: sqlite3.Connection, batch: Sequence[ClientTransition]) -> list[Verdict]:
    own.execute("SAVEPOINT stepwell")
    try:
        own.execute(query("write_lock"))
        verdicts = write_for_clients(own, batch)
    except BaseException as error:
        if own.in_transaction:
            own.execute("ROLLBACK TO stepwell")
            own.execute("RELEASE stepwell")
        if isinstance(error, DATA_ERRORS) and len(batch) == 1:
            return [cannot_store(batch[0], error)]
        raise
    own.execute("RELEASE stepwell")
    return verdicts
