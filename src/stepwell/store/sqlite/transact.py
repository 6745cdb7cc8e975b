"""A step whose function writes into the user's own tables, in the transaction that records it."""

from __future__ import annotations

from typing import cast

from msgspec.structs import astuple

from stepwell.errors import SerializationError, WorkflowCodeError
from stepwell.store.protocol import StepTransaction
from stepwell.store.records import Recorded, RolledBack
from stepwell.store.sqlite.connection import DATA_ERRORS
from stepwell.store.sqlite.loan import LendableConnection, lent
from stepwell.store.sqlite.owner_writes import write_steps
from stepwell.store.sqlite.writer import Writer, run_query
from stepwell.store.transitions import Refused


class _RolledBackError(Exception):
    """Ends the transaction without a trace; the cause is what the function raised."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Transaction:
    def __init__(self, worker_id: str, step: StepTransaction) -> None:
        self._worker_id = worker_id
        self._step = step
        self.spoiled = False

    def write(self, connection: LendableConnection) -> Refused | Recorded | None:
        """Check, call, record: all inside one transaction that holds the lock."""
        step = self._step
        found = run_query(
            connection,
            "transact_step",
            id=step.execution_id,
            worker_id=self._worker_id,
            epoch=step.epoch,
            run=step.run,
            path=step.path,
        ).fetchone()
        if found is None:
            return Refused(step.execution_id)
        if found[0] is not None:
            return Recorded(*found)
        if not step.begin():
            raise _RolledBackError(None)
        self._call(connection)
        return None

    def _call(self, connection: LendableConnection) -> None:
        error: BaseException | None = None
        record = None
        with lent(connection, self._step.is_over) as loan:
            try:
                record = self._step.call(connection)
            except BaseException as raised:
                # The border to user code: whatever it raises is its outcome, and the transaction's.
                error = raised
        self.spoiled = loan.spoiled
        if loan.refusal is not None and not isinstance(error, WorkflowCodeError):
            refused = WorkflowCodeError(f"The function of step.transaction {loan.refusal}.")
            refused.__cause__ = error
            error = refused
        if error is None and not connection.in_transaction:
            error = WorkflowCodeError(
                "SQLite has rolled back the transaction of the function (ON CONFLICT ROLLBACK, say)."
            )
        if error is not None or record is None or not self._step.close():
            raise _RolledBackError(error)
        try:
            write_steps(connection, [astuple(record)], [], self._worker_id)
            run_query(connection, "crashes_end", id=self._step.execution_id)
        except DATA_ERRORS as problem:
            raise _RolledBackError(
                SerializationError(f"The result of step {self._step.path!r} cannot be stored: {problem}")
            ) from problem


def transact_step(writer: Writer, worker_id: str, step: StepTransaction) -> Refused | Recorded | RolledBack | None:
    """See `Store.transact_step`."""
    transaction = _Transaction(worker_id, step)
    try:
        return writer.transact_alone(lambda connection: transaction.write(cast("LendableConnection", connection)))
    except _RolledBackError as rolled_back:
        return RolledBack(rolled_back.error)
    except DATA_ERRORS as error:
        # A constraint that SQLite checks at the commit only.
        return RolledBack(error)
    finally:
        if transaction.spoiled:
            writer.give_up()
