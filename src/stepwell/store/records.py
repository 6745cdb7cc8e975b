"""What a store gives back: rows as frozen records. Times are microseconds since 1970 UTC, payloads JSON text."""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import Struct

from stepwell.store.transitions import Verdict


class HistoryRow(NamedTuple):
    """What replay needs of one recorded step."""

    path: str
    seq: int
    kind: str
    status: str
    attempt: int
    output: str | None
    error: str | None
    wake_at: int | None
    started_at: int
    undo: str | None
    finished_at: int | None = None
    input: str | None = None
    """Of fan-outs only: how many items there were."""


class Claimed(Struct, frozen=True, gc=False):
    """An execution that this worker owns from now on, with the history of its current run.

    `ending` is what the run will end as when it has been decided already and only cleaning up is left: `failed`, with the
    error in `failing`, or `cancelled`, with its `reason`. `signal` is compared with `Owned`: when it differs, the owner
    loads the execution again, for somebody has paused it or ended its sleep. `paused` is only ever true for one that is
    loaded again: claiming ends a pause.
    """

    id: str
    workflow: str
    epoch: int
    run: int
    generation: int
    input: str
    created_at: int
    started_at: int
    deadline_at: int | None
    options: str | None
    version: str | None
    crashes: int
    ending: str | None
    reason: str | None
    signal: int
    failing: str | None
    history: list[HistoryRow]
    paused: bool = False


class ClaimResult(Struct, frozen=True):
    """`more`: runnable executions were left behind. `next_at`: when the next waiting one becomes claimable, if any."""

    claimed: list[Claimed]
    more: bool
    next_at: int | None


class Applied(Struct, frozen=True):
    """One verdict for each transition, in order.

    `fence` is the worker's fence counter as read in the transaction, None when the worker is gone. `woken`: an execution
    outside of memory, which waited for something in this batch, has become claimable.
    """

    verdicts: list[Verdict]
    fence: int | None
    woken: bool = False


class Recorded(Struct, frozen=True):
    """The end of a step that was recorded before: its function was not called."""

    status: str
    output: str | None
    error: str | None


class RolledBack(Struct, frozen=True):
    """Nothing of a transaction was written: the function raised `error`, or was stopped (then it may be None)."""

    error: BaseException | None


class Owned(Struct, frozen=True):
    """All that a worker owns, read after its fence: `(execution id, epoch, signal)`. `fence` is None when the worker is gone."""

    fence: int | None
    executions: list[tuple[str, int, int]]


class Taken(Struct, frozen=True):
    """What a taking did: the status before, and the worker that owned the execution, if any. `done`: it changed something.

    `ending` is what its run was to end as already, while it cleaned up. `cleans_up`: it is not over, its undos come first.
    """

    execution_id: str
    done: bool
    status: str
    owner: str | None
    ending: str | None = None
    cleans_up: bool = False


class Deletion(Struct, frozen=True):
    """What became of the wish to delete an execution; its status before.

    If it is not `done`, it has not ended, or is `orphaning` (its children are still to be cancelled), or `needed_by` is a
    living execution that refers to it.
    """

    execution_id: str
    done: bool
    status: str
    orphaning: bool
    needed_by: str | None


class Expired(Struct, frozen=True):
    """How many executions were deleted because they were kept for long enough.

    `after` is where to go on at once, None when all have been looked at; then `next_at` is when the next one is due.
    """

    deleted: int
    after: tuple[int, str] | None
    next_at: int | None


class Standing(Struct, frozen=True):
    """What one has to know of an execution before one does something to it.

    `waits` are its open sleeps and backoffs as (path, attempt).
    """

    execution_id: str
    workflow: str
    status: str
    run: int
    waits: list[tuple[str, int]]


class NewRun(Struct, frozen=True):
    """What became of the wish for a new run: `run` of execution `execution_id` has begun if it is `done`.

    If not, `unknown_step` says why, or `status` and `run`, as they are now. `status` and `owner` are of the execution that
    was asked, before the change.
    """

    execution_id: str
    done: bool
    status: str
    owner: str | None
    run: int
    unknown_step: bool = False


class WorkerRow(Struct, frozen=True):
    """A process that executes. `lease_until` counts in `Clock.uptime()` of `boot_id`."""

    id: str
    host: str
    boot_id: str
    pid: int
    pid_started_at: str
    app: str
    version: str
    concurrency: int
    started_at: int
    lease_until: int = 0
    fence: int = 0


class ExecutionRow(Struct, frozen=True):
    """One execution as people see it. `input`, `output` and `error` are None in lists, which never load payloads."""

    id: str
    workflow: str
    status: str
    run: int
    generation: int
    epoch: int
    owner: str | None
    priority: int
    version: str | None
    parent_id: str | None
    tags: tuple[str, ...]
    created_at: int
    started_at: int | None
    finished_at: int | None
    wake_at: int | None
    deadline_at: int | None
    waiting_for: str | None
    reason: str | None
    crashes: int
    ending: str | None = None
    input: str | None = None
    output: str | None = None
    error: str | None = None


class RunRow(Struct, frozen=True):
    """One run of an execution as people see it."""

    run: int
    status: str
    input: str | None
    output: str | None
    error: str | None
    reason: str | None
    started_at: int | None
    finished_at: int | None


class AttemptRow(Struct, frozen=True):
    """A failed attempt."""

    attempt: int
    error: str
    started_at: int
    finished_at: int
    worker: str | None


class StepRow(Struct, frozen=True):
    """One step as people see it."""

    run: int
    path: str
    seq: int
    kind: str
    status: str
    attempt: int
    input: str | None
    output: str | None
    error: str | None
    flag: str | None
    started_at: int
    finished_at: int | None
    wake_at: int | None
    awaits: str | None = None
    undone: int = 0
    attempts: tuple[AttemptRow, ...] = ()


class EmittedTake(Struct, frozen=True):
    """A page of what one place of an execution has emitted to a stream in its last take.

    `take` is 0 if it has emitted nothing in any run. `values` are those of the current run, in order; none when that was an
    earlier run, or when there are no more.
    """

    take: int
    values: list[str]


class StreamRow(NamedTuple):
    """One value of a stream."""

    offset: int
    value: str
    take: int


class StreamPage(Struct, frozen=True):
    """Values in the order of their offsets. `more`: others follow already. `ended`: the execution's run has."""

    rows: list[StreamRow]
    more: bool
    ended: bool


class StreamWait(NamedTuple):
    """Who follows a stream, and the offset of the last value that he has."""

    execution_id: str
    stream: str
    after: int


class Everything(Struct, frozen=True):
    """All that is kept of one execution, as it is stored: each row as its columns by name.

    `tables` are the rows of the other tables by the name of the table, `children` the ids of its children, oldest first.
    """

    execution: dict[str, Any]
    tables: dict[str, list[dict[str, Any]]]
    children: list[str]


class ExecutionFilter(Struct, frozen=True):
    """Which executions a list shows. `None` means any. `cursor` is the `next_cursor` of the page before."""

    statuses: tuple[str, ...] = ()
    workflow: str | None = None
    tags: tuple[str, ...] = ()
    id_prefix: str | None = None
    since: int | None = None
    limit: int = 50
    cursor: str | None = None


class ExecutionPage(Struct, frozen=True):
    """Newest first; `next_cursor` is None on the last page."""

    rows: list[ExecutionRow]
    next_cursor: str | None
