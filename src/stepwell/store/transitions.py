"""Everything that changes an execution, as data.

A transition is one small record; `Store.apply` writes many in one transaction and answers each. There are two kinds:

* **Owner transitions** carry the `epoch` of the claim under which they were made. They are written only while the worker
  that sends them owns the execution at exactly this epoch; otherwise the verdict is a `Refused` and nothing changes.
* **Client transitions** need no owner and stand even when the worker that sends them in the same batch has lost its lease.

All times are microseconds since 1970 UTC; `input`, `output` and `error` are JSON text.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from msgspec import Struct


class NewExecution(Struct, frozen=True, gc=False):
    """An execution as its trigger makes it.

    `owner` is the worker that starts it at once (epoch 1, status `running`), or None to queue it until `wake_at`.
    `request` is a token made before the first sending, for ids chosen by the caller: sent again after an unknown commit it
    meets its own row and is told "inserted" again. With a generated id it is None, as the id itself serves.
    `deadline_at` is set for a direct start with a timeout; a queued one gets it when it is first claimed.
    """

    id: str
    workflow: str
    input: str
    created_at: int
    owner: str | None = None
    wake_at: int | None = None
    priority: int = 0
    version: str | None = None
    parent_id: str | None = None
    parent_run: int | None = None
    parent_path: str | None = None
    attached: bool = False
    retention: int | None = None
    options: str | None = None
    timeout: int | None = None
    deadline_at: int | None = None
    tags: tuple[str, ...] = ()
    request: str | None = None


class Triggered(Struct, frozen=True, gc=False):
    """Client: insert one execution. Verdict `Exists` when the id is taken by another request."""

    execution: NewExecution


class TriggeredMany(Struct, frozen=True):
    """Client: insert all of them or none. Verdict `Exists` for the first id that is taken."""

    executions: tuple[NewExecution, ...]


class EventSent(Struct, frozen=True, gc=False):
    """Client: keep an event for a living execution and wake the execution if it listens for it.

    `id` is the sender's own or a token made before the first sending: the same id again, with the same name, is the same
    event and counts once. Verdict `Unknown` or `Over` when there is no living execution, `Exists` when the id
    belongs to another event.
    """

    execution_id: str
    name: str
    payload: str
    id: str
    sent_at: int


class StepStarted(Struct, frozen=True, gc=False):
    """Owner: show a body that runs for longer (status `running`). Changes nothing in a step that has ended."""

    execution_id: str
    epoch: int
    run: int
    path: str
    seq: int
    kind: str
    attempt: int
    input: str | None
    started_at: int


class StepWaiting(Struct, frozen=True, gc=False):
    """Owner: a wait begins and its deadline is stored before anything waits (status `sleeping` or `listening`).

    With `idle` the execution itself takes this status too (it keeps its owner); the wait's end sets it back.
    """

    execution_id: str
    epoch: int
    run: int
    path: str
    seq: int
    kind: str
    status: str
    input: str | None
    started_at: int
    wake_at: int | None
    idle: bool


class Listened(Struct, frozen=True, gc=False):
    """Owner: take the oldest event of this name, or record that the step listens for it.

    In one transaction: if the step has ended, answer as then; else if `take` and an event waits, the event is marked as
    received and the step completes with its payload (verdict `Received`); else with `error` the step fails with it, its time
    being over; else it is `listening` until `wake_at` (None: for ever). Verdict None for the last two.
    """

    execution_id: str
    epoch: int
    run: int
    path: str
    seq: int
    input: str | None
    event: str
    started_at: int
    now: int
    wake_at: int | None
    take: bool
    error: str | None
    idle: bool


class ChildStarted(Struct, frozen=True, gc=False):
    """Owner: insert a child and record the step that starts it, in one transaction.

    With `waits` the step is `listening` for the child's end, else it completes with the child's id. A child that this step
    has made before (an earlier sending) is met again. Verdict `Exists` when the id is taken by anything else, `Over` when
    the child has ended already.
    """

    execution_id: str
    epoch: int
    run: int
    path: str
    seq: int
    kind: str
    input: str | None
    started_at: int
    child: NewExecution
    waits: bool
    idle: bool


class ChildAwaited(Struct, frozen=True, gc=False):
    """Owner: look whether an execution has ended (verdict `Over`); else the step is `listening` for that.

    Verdict `Unknown` when there is no such execution.
    """

    execution_id: str
    epoch: int
    run: int
    path: str
    seq: int
    kind: str
    input: str | None
    started_at: int
    awaits: str
    idle: bool


class StepRetrying(Struct, frozen=True, gc=False):
    """Owner: an attempt failed and another follows at `wake_at` (status `retrying`; the attempt is kept in `attempts`).

    Steps inside it that were `cancelled` become `running` again, for the next attempt runs them.
    """

    execution_id: str
    epoch: int
    run: int
    path: str
    seq: int
    attempt: int
    input: str | None
    error: str
    started_at: int
    finished_at: int
    wake_at: int
    idle: bool
    kind: str = "run"


class StepFinished(Struct, frozen=True, gc=False):
    """Owner: a step ended as `completed`, `failed` or `cancelled`. One row; the first that is written stays.

    A failed step of kind `run` or `transaction` leaves a row in `attempts` too. `undo` is set, to the name of its function or
    to `1`, if it has an undo, to be run when the execution fails. The field order is the parameter order of
    `step_finished.sql`.
    """

    execution_id: str
    epoch: int
    run: int
    path: str
    seq: int
    kind: str
    status: str
    attempt: int
    input: str | None
    output: str | None
    error: str | None
    started_at: int
    finished_at: int
    undo: str | None = None


class StepFlagged(Struct, frozen=True, gc=False):
    """Owner: mark a step for people, e.g. `repeated` when its name came again with other arguments."""

    execution_id: str
    epoch: int
    run: int
    path: str
    flag: str


class Emitted(Struct, frozen=True, gc=False):
    """Owner: append values (JSON texts) to a stream; those of one stream get the offsets 1, 2, 3, … as they come.

    The values are the `n`-th and following ones that the step at `path` (empty: workflow code) has emitted to this stream
    in its `take`. What stands there already stays: an earlier sending wrote it.
    """

    execution_id: str
    epoch: int
    run: int
    path: str
    stream: str
    take: int
    n: int
    values: tuple[str, ...]
    emitted_at: int


class Progressed(Struct, frozen=True, gc=False):
    """Owner: something was recorded since the last crash, so the count of crashes in a row starts again at 0."""

    execution_id: str
    epoch: int


class Resumed(Struct, frozen=True, gc=False):
    """Owner: a wait that was kept in memory is over; an execution shown as `sleeping` is `running` again."""

    execution_id: str
    epoch: int


class Idle(Struct, frozen=True, gc=False):
    """Owner: a recorded wait is taken up again in memory and nothing else runs; shown as `status`, the owner is kept."""

    execution_id: str
    epoch: int
    status: str
    wake_at: int | None
    waiting_for: str


class Parked(Struct, frozen=True, gc=False):
    """Owner: leave memory until `wake_at`. The owner is given up; `waiting_for` says for people what is awaited.

    With status `listening` what its steps listen for is looked at in the same transaction: if some of it is there, the
    execution is claimable at once. So it is when the row's `signal` is not the one given: somebody has woken it, or paused
    and resumed it, and the owner had not seen that. One that is paused stays so.
    """

    execution_id: str
    epoch: int
    status: str
    wake_at: int | None
    waiting_for: str
    signal: int | None = None


class Released(Struct, frozen=True, gc=False):
    """Owner: give the execution back to the queue, claimable from `wake_at`. Not a crash. One that is paused stays so."""

    execution_id: str
    epoch: int
    wake_at: int
    waiting_for: str | None = None


class Failing(Struct, frozen=True, gc=False):
    """Owner: the run has failed with `error`; what follows (`on_error`) only cleans up."""

    execution_id: str
    epoch: int
    run: int
    error: str


class Finished(Struct, frozen=True, gc=False):
    """Owner: the run ended. `output` for `completed`, `error` for `failed`, `reason` for `cancelled` and `aborted`.

    Steps that are still `running`, `retrying`, `sleeping` or `listening` become `cancelled`. The owner is cleared.
    """

    execution_id: str
    epoch: int
    run: int
    status: str
    output: str | None
    error: str | None
    reason: str | None
    finished_at: int


OwnerTransition: TypeAlias = (
    StepStarted
    | StepWaiting
    | Listened
    | ChildStarted
    | ChildAwaited
    | StepRetrying
    | StepFinished
    | StepFlagged
    | Emitted
    | Progressed
    | Resumed
    | Idle
    | Parked
    | Released
    | Failing
    | Finished
)
ClientTransition: TypeAlias = Triggered | TriggeredMany | EventSent
Transition: TypeAlias = OwnerTransition | ClientTransition


class Refused(Struct, frozen=True, gc=False):
    """Verdict: this worker does not own the execution at this epoch any more; nothing was written."""

    execution_id: str


class Exists(Struct, frozen=True, gc=False):
    """Verdict: the id is taken. `same` tells whether workflow and input are equal to what was asked for."""

    execution_id: str
    same: bool


class Unknown(Struct, frozen=True, gc=False):
    """Verdict: no execution has this id; nothing was written."""

    execution_id: str


class Over(Struct, frozen=True, gc=False):
    """Verdict: the execution has ended. `text` is its output, error or reason where that was asked for."""

    execution_id: str
    status: str
    text: str | None


class Received(Struct, frozen=True, gc=False):
    """Verdict: the step has its event."""

    payload: str


Verdict: TypeAlias = Refused | Exists | Unknown | Over | Received | Exception | None
"""None: written (or already written by an earlier sending). An exception: this transition alone cannot be stored."""

ACCEPTED: Final = None
