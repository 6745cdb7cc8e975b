"""The connection that reads for people, in a thread of its own: a long list never delays a commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from stepwell.store.sqlite.connection import connect_reader, unavailable, url_of

T = TypeVar("T")


class Reader:
    """A `Resource` for a `Lane`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    @property
    def url(self) -> str:
        return url_of(self._path)

    def open(self) -> None:
        pass  # at the first read: a store that nobody looks into needs no second connection

    def tick(self) -> float | None:
        return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on one snapshot.

        Raises:
            StoreUnavailableError: The database cannot be read.
        """
        try:
            if self._connection is None:
                self._connection = connect_reader(self._path)
            self._connection.execute("BEGIN")
            try:
                return work(self._connection)
            finally:
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self.close()
            self._connection = None
            raise unavailable(self.url, error) from error
