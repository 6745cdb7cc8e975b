"""The one connection that writes: transactions with a fair retry, leases, and the look-out for other processes.

SQLite's own busy handler backs off and starves whoever waits against back-to-back commits, so the busy timeout is 0 and
a waiting writer asks again about every millisecond. In return a busy writer naps for half a millisecond every few
commits while others are alive. Everything here runs in the writer's thread.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from stepwell.clock import Clock
from stepwell.errors import StepwellError, StoreUnavailableError
from stepwell.ids import Rng
from stepwell.store.sqlite.connection import (
    DATA_ERRORS,
    connect_writer,
    is_busy,
    prepare_file,
    query,
    unavailable,
    url_of,
)
from stepwell.store.sqlite.lane import log
from stepwell.store.sqlite.lease import Leases
from stepwell.store.sqlite.loan import LendableConnection

POLL_SECONDS: Final = 0.05
_POLL_US: Final = 50_000
_RETRY_SECONDS: Final = 0.001
_WARN_US: Final = 5_000_000
_GIVE_UP_US: Final = 60_000_000
_NAP_SECONDS: Final = 0.0005
_COMMITS_BETWEEN_NAPS: Final = 20
_NEIGHBOUR_MEMORY_US: Final = 15_000_000

T = TypeVar("T")


class Writer:
    """A `Resource` for a `Lane`."""

    def __init__(self, path: Path | None, *, clock: Clock, rng: Rng, on_change: Callable[[], object]) -> None:
        self.leases = Leases(clock)
        self.watched = False
        """Whether anybody wants to hear of changes by others."""
        self._path = path
        self._clock = clock
        self._rng = rng
        self._on_change = on_change
        self._connection: sqlite3.Connection | None = None
        self._was_open = False
        self._data_version = 0
        self._looked_at = 0
        self._neighbour_seen_at = -_NEIGHBOUR_MEMORY_US
        self._commits = 0

    @property
    def url(self) -> str:
        return url_of(self._path)

    def open(self) -> None:
        self._ready()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on one snapshot, without the lock."""

        def read(connection: sqlite3.Connection) -> T:
            # The first read takes the snapshot, and may meet another process that is recovering the file after a crash.
            self._execute(connection, query("schema_version"))
            return work(connection)

        return self._transact("BEGIN", read)

    def transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one transaction that holds the lock from its beginning; due leases are renewed in it.

        Raises:
            StoreUnavailableError: The database cannot be written; nothing was, except if it failed at the very commit.
        """
        due = self.leases.due() if self.leases else []
        if not due:
            result = self._transact("BEGIN IMMEDIATE", work)
        else:
            try:
                renewal, result = self._transact(
                    "BEGIN IMMEDIATE", lambda connection: (self.leases.renew(connection, due), work(connection))
                )
            except BaseException:
                self.leases.put_off(due)
                raise
            self.leases.confirm(renewal)
            if renewal.neighbours:
                self._neighbour_seen_at = self._clock.uptime()
        self._commits += 1
        return result

    def transact_alone(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The same without leases, for work that may take seconds and be rolled back: they are renewed by the next tick."""
        result = self._transact("BEGIN IMMEDIATE", work)
        self._commits += 1
        return result

    def give_up(self) -> None:
        """Open the connection anew at its next use. The database in memory has no other and keeps it."""
        if self._path is not None:
            self.close()

    def tick(self) -> float | None:
        now = self._clock.uptime()
        if now - self._looked_at >= _POLL_US:
            self._looked_at = now
            self._look_for_changes()
            self._renew()
        if self._commits >= _COMMITS_BETWEEN_NAPS:
            self._commits = 0
            if now - self._neighbour_seen_at < _NEIGHBOUR_MEMORY_US:
                time.sleep(_NAP_SECONDS)
        return POLL_SECONDS if self.leases or (self.watched and self._path is not None) else None

    def _look_for_changes(self) -> None:
        if self._path is None or self._connection is None:
            return
        # Only a hint is lost when the file is busy or broken at this moment; the next job tells of it.
        with suppress(sqlite3.Error):
            version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
            if version != self._data_version:
                self._data_version = version
                self._neighbour_seen_at = self._clock.uptime()
                self._on_change()

    def _renew(self) -> None:
        if self.leases.due():
            try:
                self.transact(lambda _: None)
            except StepwellError as error:
                log.warning("The lease could not be renewed: %s", error)

    def _transact(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._ready()
        try:
            self._execute(connection, begin)
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back(connection, error)
            if isinstance(error, sqlite3.Error) and not isinstance(error, DATA_ERRORS):
                raise unavailable(self.url, error) from error
            raise
        return result

    def _roll_back(self, connection: sqlite3.Connection, error: BaseException) -> None:
        broken = isinstance(error, sqlite3.Error) and not isinstance(error, DATA_ERRORS) and not is_busy(error)
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            broken = True
        if broken and self._path is not None:
            # After an I/O error nobody knows what this connection believes of the file: the next use opens it anew.
            log.error("The connection to %s is given up after an error: %s", self.url, error)
            with suppress(sqlite3.Error):
                connection.close()
            self._connection = None

    def _ready(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._open()
            if self._was_open:
                self._on_change()
            self._was_open = True
        return self._connection

    def _open(self) -> sqlite3.Connection:
        if self._path is not None:
            prepare_file(self._path, create=not self._was_open)
        try:
            connection = connect_writer(self._path, self._execute, LendableConnection)
            self._data_version = connection.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error as error:
            raise unavailable(self.url, error) from error
        return connection

    def _execute(self, connection: sqlite3.Connection, statement: str) -> sqlite3.Cursor:
        """Execute, and again while another connection holds the lock."""
        started: int | None = None
        warned = False
        while True:
            try:
                return connection.execute(statement)
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                now = self._clock.uptime()
                started = now if started is None else started
                if now - started > _GIVE_UP_US:
                    problem = f"another process has held its write lock for {_GIVE_UP_US // 1_000_000} s"
                    raise StoreUnavailableError(self.url, problem) from error
                if now - started > _WARN_US and not warned:
                    warned = True
                    log.warning("Another process holds the write lock of %s for more than 5 s", self.url)
            time.sleep(_RETRY_SECONDS * (0.5 + self._rng.random()))


def run_query(connection: sqlite3.Connection, name: str, /, **parameters: object) -> sqlite3.Cursor:
    """Execute the statement of a file with named parameters."""
    return connection.execute(query(name), parameters)
