"""The writer's connection in the hands of user code: what that must not do, and how the connection comes back.

Three things keep the transaction whole. The authorizer refuses statements that would end it, outlive it or touch
stepwell's tables. While the loan lasts, methods of the connection object itself are shadowed by those that refuse, or
that look before each statement whether the transaction is still there (SQLite may roll it back by itself, and what came
then would commit on its own). And the progress handler interrupts statements that take too long.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, Final, Never

from stepwell.errors import WorkflowCodeError
from stepwell.store.sqlite.connection import own_names, primary_code

_INSTRUCTIONS_BETWEEN_LOOKS: Final = 1_000

_WRITES: Final = (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE)
_DROPS: Final = (sqlite3.SQLITE_DROP_TABLE, sqlite3.SQLITE_DROP_VIEW)
_CHANGES_OF_SECOND: Final = (
    sqlite3.SQLITE_ALTER_TABLE,
    sqlite3.SQLITE_CREATE_INDEX,
    sqlite3.SQLITE_DROP_INDEX,
    sqlite3.SQLITE_CREATE_TRIGGER,
    sqlite3.SQLITE_DROP_TRIGGER,
)
_TEMPORARY: Final = (
    sqlite3.SQLITE_CREATE_TEMP_TABLE,
    sqlite3.SQLITE_CREATE_TEMP_INDEX,
    sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
    sqlite3.SQLITE_CREATE_TEMP_VIEW,
)
_HARMLESS_PRAGMAS: Final = frozenset(
    {
        "defer_foreign_keys",
        "foreign_key_check",
        "foreign_key_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
    }
)
"""They take an argument and leave nothing behind."""

_IT_COMMITS: Final = "stepwell commits when the function returns, and rolls back when it raises"
_REFUSED: Final = {
    "commit": _IT_COMMITS,
    "rollback": _IT_COMMITS,
    "executescript": "it commits before it begins; call execute() for each statement",
    "close": "the connection is stepwell's",
    "deserialize": "it replaces the database",
    "blobopen": "it passes by the checks of SQL; read and write blobs by statements",
    "load_extension": "the connection is stepwell's",
    "enable_load_extension": "the connection is stepwell's",
    "set_authorizer": "stepwell uses the authorizer itself",
    "set_progress_handler": "stepwell uses the progress handler itself",
}
_LASTING: Final = (
    "create_aggregate",
    "create_collation",
    "create_function",
    "create_window_function",
    "set_trace_callback",
    "setconfig",
    "setlimit",
)
"""What they change stays: the connection is given up afterwards."""
_BROKEN: Final = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN)


class LendableConnection(sqlite3.Connection):
    """A connection whose methods can be shadowed for a while: the class of the standard library has no room for that."""

    loan: Loan | None = None

    def __setattr__(self, name: str, value: object) -> None:
        if self.loan is not None and name in ("isolation_level", "autocommit"):
            self.loan.refuse(f"must not set {name}: {_IT_COMMITS}")
        super().__setattr__(name, value)


class Loan:
    """What one piece of user code does with the connection."""

    def __init__(self, connection: LendableConnection, is_over: Callable[[], bool]) -> None:
        self.refusal: str | None = None
        """The first thing that was refused, whatever the code made of the error."""
        self.spoiled = False
        """The connection cannot be made what it was."""
        self._connection = connection
        self._is_over = is_over
        self._cursors: weakref.WeakSet[_LentCursor] = weakref.WeakSet()

    def shadows(self) -> dict[str, Callable[..., Any]]:
        """What stands before the connection's own methods."""
        refused = {name: self._refusing(name, reason) for name, reason in _REFUSED.items()}
        lasting = {
            name: self._spoiling(getattr(self._connection, name))
            for name in _LASTING
            if hasattr(self._connection, name)
        }
        return {
            **refused,
            **lasting,
            "cursor": self._cursor,
            "execute": lambda *args: self._cursor().execute(*args),
            "executemany": lambda *args: self._cursor().executemany(*args),
        }

    def refuse(self, problem: str) -> Never:
        """Raise, and remember it."""
        self._remember(problem)
        raise WorkflowCodeError(f"The function of step.transaction {problem}.")

    def authorize(self, action: int, first: str | None, second: str | None, database: str | None, _: object) -> int:
        """The authorizer: asked while a statement is prepared."""
        problem = _problem(action, first or "", second, database)
        if problem is None:
            return sqlite3.SQLITE_OK
        self._remember(problem)
        return sqlite3.SQLITE_DENY

    def is_over(self) -> bool:
        """The progress handler: whether to interrupt the statement."""
        return self._is_over()

    def run(self, statement: Callable[..., Any], *args: Any) -> Any:
        """Execute a statement, if there still is a transaction."""
        if not self._connection.in_transaction:
            self.refuse("goes on after SQLite has rolled its transaction back (ON CONFLICT ROLLBACK, say)")
        if self._is_over():
            raise sqlite3.OperationalError("interrupted: the function of step.transaction has taken too long")
        refusal = self.refusal
        try:
            return statement(*args)
        except sqlite3.DatabaseError as error:
            if primary_code(error) in _BROKEN:
                self.spoiled = True
            if self.refusal is not refusal:
                self.refuse(str(self.refusal))
            raise

    def end(self) -> None:
        """Close what was left open: a cursor in the middle of its rows would hold its snapshot for ever."""
        for cursor in list(self._cursors):
            cursor.close()

    def _cursor(self, factory: object = None) -> _LentCursor:
        if factory is not None:
            self.refuse("must not ask for cursors of another class")
        cursor = sqlite3.Connection.cursor(self._connection, _LentCursor)
        cursor.loan = self
        self._cursors.add(cursor)
        return cursor

    def _remember(self, problem: str) -> None:
        if self.refusal is None:
            self.refusal = problem

    def _refusing(self, name: str, reason: str) -> Callable[..., Never]:
        def refuse(*_: object, **__: object) -> Never:
            self.refuse(f"must not call {name}(): {reason}")

        return refuse

    def _spoiling(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.spoiled = True
            return method(*args, **kwargs)

        return call


class _LentCursor(sqlite3.Cursor):
    loan: Loan

    def execute(self, sql: str, parameters: Any = (), /) -> _LentCursor:
        return self.loan.run(super().execute, sql, parameters)

    def executemany(self, sql: str, seq_of_parameters: Iterable[Any], /) -> _LentCursor:
        return self.loan.run(super().executemany, sql, seq_of_parameters)

    def executescript(self, sql_script: str, /) -> Never:
        self.loan.refuse(f"must not call executescript(): {_REFUSED['executescript']}")


@contextmanager
def lent(connection: LendableConnection, is_over: Callable[[], bool]) -> Generator[Loan]:
    """Lend the connection, in a transaction, to user code; afterwards it is as before, unless the loan is `spoiled`.

    `is_over` is asked now and then while a statement runs, and before each: True interrupts.
    """
    loan = Loan(connection, is_over)
    factories = connection.row_factory, connection.text_factory
    shadows = loan.shadows()
    connection.set_authorizer(loan.authorize)
    connection.set_progress_handler(loan.is_over, _INSTRUCTIONS_BETWEEN_LOOKS)
    vars(connection).update(shadows)
    connection.loan = loan
    try:
        yield loan
    finally:
        loan.end()
        connection.loan = None
        vars(connection).clear()
        connection.set_authorizer(None)
        connection.set_progress_handler(None, 0)
        connection.row_factory, connection.text_factory = factories


def _problem(action: int, first: str, second: str | None, database: str | None) -> str | None:
    match action:
        case sqlite3.SQLITE_READ | sqlite3.SQLITE_SELECT | sqlite3.SQLITE_FUNCTION | sqlite3.SQLITE_SAVEPOINT:
            return None
        case sqlite3.SQLITE_TRANSACTION:
            return f"must not {first}: {_IT_COMMITS}"
        case sqlite3.SQLITE_ATTACH | sqlite3.SQLITE_DETACH:
            return "must not ATTACH or DETACH databases: the connection is stepwell's"
        case sqlite3.SQLITE_PRAGMA if second is not None and first.lower() not in _HARMLESS_PRAGMAS:
            return f"must not set PRAGMA {first}: the connection is stepwell's"
        case _ if action in _TEMPORARY or (action == sqlite3.SQLITE_CREATE_VTABLE and database == "temp"):
            return (
                f"must not create {first!r} as temporary: it would stay on stepwell's connection. Use WITH, or a table"
            )
        case _ if action in _WRITES + _DROPS and first.lower() in own_names():
            return f"must not change {first!r}, which is stepwell's"
        case _ if action in _CHANGES_OF_SECOND and (second or "").lower() in own_names():
            return f"must not change {second!r}, which is stepwell's"
        case _:
            return None
