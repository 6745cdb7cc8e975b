"""What the engine and people's surfaces ask of a database.

`Store` is the engine's side: every method is one transaction, and every transaction may be sent again after an unknown
commit and then leaves the same state. `StoreReader` is for people: it never locks and never loads payloads into lists.
Both are async; an implementation runs its driver where it blocks nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, Protocol

from stepwell.store.records import (
    Applied,
    Claimed,
    ClaimResult,
    Deletion,
    EmittedTake,
    Everything,
    ExecutionFilter,
    ExecutionPage,
    ExecutionRow,
    Expired,
    NewRun,
    Owned,
    Recorded,
    RolledBack,
    RunRow,
    Standing,
    StepRow,
    StreamPage,
    StreamWait,
    Taken,
    WorkerRow,
)
from stepwell.store.transitions import ClientTransition, Refused, StepFinished, Transition, Verdict

STREAM_PAGE_ROWS: Final = 1_000
STREAM_PAGE_CHARACTERS: Final = 4 * 1024 * 1024
"""A page of a stream with large values ends sooner, so that nobody needs a thousand of them in memory."""


class Pulse(Protocol):
    """How the store, which renews the lease without the event loop, and the worker keep an eye on each other."""

    def is_beating(self) -> bool:
        """Asked before each renewal, in any thread: False lets the lease run out."""
        ...

    def renewed(self, lease_until: int) -> None:
        """Told, in any thread, until when the lease is valid, in `Clock.uptime()`."""
        ...

    def lost(self) -> None:
        """Told, in any thread, that the worker's row is gone: everything it owned now belongs to others."""
        ...


class StepTransaction(Protocol):
    """A step whose function runs inside the transaction that records it. Called in any thread."""

    execution_id: str
    epoch: int
    run: int
    path: str

    def begin(self) -> bool:
        """Asked once all checks are made; False when nobody wants it any more. The function's time begins."""
        ...

    def is_over(self) -> bool:
        """Whether the function is to be stopped: it has taken too long, or is not wanted any more."""
        ...

    def call(self, connection: object, /) -> StepFinished:
        """Run the function and make the record of its result; raises what it raises."""
        ...

    def close(self) -> bool:
        """Asked just before the record is written: False when the function is to be rolled back. The last word."""
        ...


class Store(Protocol):
    """The engine's side of a database."""

    @property
    def url(self) -> str:
        """The URL with the full path, as it is shown and logged."""
        ...

    @property
    def payload_limit(self) -> int | None:
        """The longest JSON text of one payload in characters that this store takes, or None."""
        ...

    def apply(self, batch: Sequence[Transition], worker_id: str | None = None, fence: int = 0) -> Awaitable[Applied]:
        """Write the batch in one transaction, in order for each execution, and answer each transition.

        Args:
            batch: Owner transitions of `worker_id` and client transitions, mixed.
            worker_id: Who sends; None for a client without a worker (client transitions only).
            fence: The last fence value for which the worker has compared all that it owns. While the row still says the
                same, ownership needs no check row by row; when it moved, each owner transition is checked by owner and
                epoch. A worker that is gone has all its owner transitions refused.

        A data error refuses only the transition that causes it (its verdict is the exception). Refusing one owner
        transition refuses all later ones of that execution and epoch in the batch.
        """
        ...

    @property
    def takes_async_transactions(self) -> bool:
        """Whether the function of a `transact_step` may be async."""
        ...

    async def transact_step(self, worker_id: str, step: StepTransaction) -> Refused | Recorded | RolledBack | None:
        """Run the step's function and write its record, both in one transaction; None when that is committed.

        In the transaction: the worker lives and owns the execution at the step's epoch, else `Refused`; if the step has
        ended already, `Recorded` with its end, so that sending it again after an unknown commit is safe. Only then
        `step.begin`, `step.call(connection)` with the driver's connection, `step.close`, and the record. Whatever the
        function raises rolls all of it back (`RolledBack`); so does a False of `begin` or `close`. With the record the
        count of crashes in a row becomes zero, for whoever dies right after the commit has got on. The function cannot
        end the transaction or change what is the store's, and leaves the connection as it was.

        A store whose writers wait for each other runs the function between batches, under its lock. One with a connection
        for each transaction makes the checks without locks first, and once more after the function: it locks the worker's
        and the execution's row just before the record and looks at them and at the step again, as nothing must wait for
        user code.

        Raises:
            StoreUnavailableError: Nothing was written, unless it failed at the very commit: send it again.
        """
        ...

    def enlist(self, connection: object, batch: Sequence[ClientTransition]) -> list[Verdict]:
        """Write client transitions in the caller's own open transaction, in the calling thread, and answer each.

        They count if and only if that transaction commits. `connection` is the driver's, or an object that leads to it.
        What is not written leaves the transaction as it was.

        Raises:
            InvalidInputError: It is no connection to this database, has no transaction and begins none by itself, or
                cannot be used in this thread.
            StoreUnavailableError: The connection cannot write now.
        """
        ...

    async def claim(
        self, worker_id: str, workflows: Collection[str], limit: int, *, suspects: int, now: int
    ) -> ClaimResult:
        """Take up to `limit` runnable executions of these workflows: raise the epoch, set the owner, load the history.

        Runnable: no owner and `wake_at` reached; due waits first, then the queue by priority and age. The first claim
        sets `started_at` and the deadline (`now` + timeout). A pending crash mark is added to `crashes` in the same
        transaction. Executions with two or more crashes are suspects: at most `suspects` of them are taken.
        """
        ...

    async def load(self, worker_id: str, ids: Collection[str]) -> list[Claimed]:
        """Read executions that this worker owns already, as `claim` would return them."""
        ...

    async def cancel(self, execution_id: str, *, reason: str | None, now: int, undo: bool = False) -> Taken | None:
        """Make an execution `cancelled` unless it is terminal; None when it does not exist.

        Raises the epoch, clears the owner, raises the owner's fence, ends open steps as `cancelled`. With `undo`, if a
        completed step of the run has an undo that has not ended, it is queued with `ending` `cancelled` instead,
        claimable at once; one that is failing or cancelled so already is left as it is.
        """
        ...

    async def standing(self, execution_id: str) -> Standing | None:
        """What the operations below have to know first; None when there is no such execution."""
        ...

    async def pause(self, execution_id: str) -> Taken | None:
        """Make a living execution `paused`, whether or not it is owned; None when it does not exist.

        An owner keeps it until its bodies have ended; raised fence and signal make it look. Nobody claims what is paused
        before its deadline. Not done when it is paused already, or terminal.
        """
        ...

    async def resume(self, execution_id: str, *, now: int) -> Taken | None:
        """Make a paused execution claimable at once, or `running` if its owner has not left yet.

        A stored sleep goes on with its old deadline, and so does the delay of one that was never started. Not done when it
        is not paused.
        """
        ...

    async def wake(self, execution_id: str, *, run: int, waits: Collection[tuple[str, int]], now: int) -> Taken | None:
        """End those of the sleeps and backoffs, given as (path, attempt), that are still open in this run.

        Their steps get `wake_at` = now and the flag `woken`; a sleeping execution becomes claimable, an owner is made to
        look. Not done when none of them was open and none of them had been woken: waits that begin later are left alone, so
        it may be sent again.
        """
        ...

    async def restart(
        self,
        execution_id: str,
        *,
        expected_run: int,
        request: str,
        from_step: str | None,
        input: str | None,
        now: int,
    ) -> NewRun | None:
        """Begin run `expected_run + 1` of the next generation; None when there is no such execution.

        A living execution is cancelled first: its owner loses it (epoch, fence), open steps end as `cancelled`. The end of
        the old run is kept. With `from_step` the steps that were recorded before the first record of this path are kept, as
        `stepwell.store.keeping` says. Crashes, start and deadline begin anew.

        Args:
            expected_run: The run that the caller has seen. If another one has begun, nothing is done.
            request: Made by the caller before the first sending and stored with the run: a repeat gets the first answer.
            from_step: A path, or None to keep nothing. An unknown one changes nothing.
            input: JSON text, or None for the same as before.
        """
        ...

    async def retry(self, execution_id: str, *, expected_run: int, request: str, now: int) -> NewRun | None:
        """As `restart`, but in the same generation, keeping every result, and only of what ended other than `completed`."""
        ...

    async def fork(
        self, execution_id: str, *, new_id: str, from_step: str | None, input: str | None, now: int
    ) -> NewRun | None:
        """Queue a new execution of the same workflow, tags and options; None when `execution_id` does not exist.

        It begins like a `restart` of the other one, which goes on untouched. `new_id` is made by the client: if it is there
        already, this is a repeat.
        """
        ...

    async def cancel_orphans(self, *, now: int, limit: int) -> list[Taken]:
        """Cancel up to `limit` attached children of executions that have ended as failed, cancelled or aborted.

        Their ends have left a mark in the database; it goes once no such child lives. Children of the cancelled ones are
        marked in turn: call it until it returns nothing. Also takes the children of a parent's earlier runs.
        """
        ...

    async def delete(self, execution_id: str) -> Deletion | None:
        """Delete a terminal execution with all its rows; None when it does not exist.

        Refused while a living execution refers to it: one whose open step awaits its end, or the parent to which it is
        attached. Refused too while its own children are still to be cancelled: `cancel_orphans` first.
        """
        ...

    async def expire(self, *, now: int, limit: int, after: tuple[int, str] | None = None) -> Expired:
        """Delete terminal executions with `finished_at` + `retention` <= `now` that no living execution refers to.

        At most `limit` are looked at in one short transaction, from `after` on (None: from the beginning); fewer when they
        have many rows. Nothing is locked when none is due.
        """
        ...

    async def register(self, worker: WorkerRow, pulse: Pulse) -> None:
        """Insert the worker's row and keep its lease renewed (15 s, every 5 s), independently of the event loop."""
        ...

    async def deregister(self, worker_id: str) -> None:
        """Stop renewing, delete the row and put back into the queue what it still owns, not counted as crashes."""
        ...

    async def owned(self, worker_id: str) -> Owned:
        """Read the fence, then all that the worker owns. Answered in order with `apply` and `claim`."""
        ...

    async def workers(self) -> list[WorkerRow]:
        """All registered workers."""
        ...

    async def reap(self, reaper_id: str, worker_id: str, *, dead: bool, crashed: bool, now: int) -> int:
        """Take away everything that `worker_id` owns and delete its row; returns how many executions went back.

        Does nothing when the worker is neither `dead` nor has a lease that ran out (checked in the transaction). The
        reaper's own lease is renewed first. With `crashed` the executions that were `running` get a crash mark, to be
        counted by the next claim: those that only waited cannot have caused it. Without it the worker is known to live
        and has only lost its lease.
        """
        ...

    async def arrived(self, wanted: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
        """Which of these `(execution id, event name)` have an event that no step has received."""
        ...

    async def finished(self, ids: Collection[str]) -> list[str]:
        """Which of these executions are terminal or do not exist."""
        ...

    async def emitted(
        self, execution_id: str, run: int, path: str, stream: str, *, take: int | None = None, start: int = 0
    ) -> EmittedTake:
        """A page of what the step at `path` has emitted to a stream, from its `start`-th value on.

        Args:
            take: Which one; None for the last.
        """
        ...

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` in the current event loop after another process (or App) has changed the database.

        A hint: it may come late, never, or for nothing. Returns what ends the subscription.
        """
        ...

    async def close(self) -> None:
        """Finish what is queued and close every connection."""
        ...


class StoreReader(Protocol):
    """Reading for people."""

    async def execution(self, execution_id: str) -> ExecutionRow | None:
        """One execution with its payloads."""
        ...

    async def executions(self, query: ExecutionFilter) -> ExecutionPage:
        """A keyset page, newest first, without payloads."""
        ...

    async def steps(self, execution_id: str, run: int | None = None) -> list[StepRow]:
        """The steps of a run (default: the current one) in order of their start, with failed attempts."""
        ...

    async def children(self, execution_id: str) -> list[ExecutionRow]:
        """The executions that it has started, oldest first, without payloads; 1,000 at most."""
        ...

    async def everything(self, execution_id: str) -> Everything | None:
        """All rows of one execution as they are stored, as of one moment; None when it does not exist."""
        ...

    async def runs(self, execution_id: str) -> list[RunRow]:
        """All runs of an execution, oldest first; empty when there is no such execution."""
        ...

    async def revision(self, execution_id: str) -> tuple[object, ...]:
        """A small value that differs whenever the execution or one of its steps has changed. Cheap."""
        ...

    async def stream(self, execution_id: str, name: str, after: int) -> StreamPage | None:
        """The values of a stream whose offsets are above `after`, a page; None when there is no such execution."""
        ...

    async def stream_news(self, waits: Sequence[StreamWait]) -> list[int]:
        """For which of these there is a next value, or none to come as the execution has ended or does not exist."""
        ...

    async def counts(self) -> dict[str, int]:
        """How many executions there are of each status."""
        ...
