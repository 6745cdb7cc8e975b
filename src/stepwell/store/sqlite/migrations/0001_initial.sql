-- What stepwell keeps in SQLite.
--
-- executions    one row for each execution: narrow, because nearly every transition touches it. WITHOUT ROWID: it is found
--               by id alone, and every list index ends in the id anyway.
-- payloads      input, output and error of each run. Apart from executions, so that these stay narrow and lists never read
--               payloads.
-- steps         one row for each step of each run, written when the step ends (open ones only while they run or wait for
--               long). A rowid table: rows are appended in the order in which steps of a thousand executions end, so a
--               batch touches few pages; clustered by execution (WITHOUT ROWID) each row of a batch dirtied a page of its
--               own, which wrote a fifth as many rows a second at 1,000 characters of output.
-- attempts      the failed attempts of a step.
-- events        messages to executions; received ones stay for people.
-- streams       what steps and workflow code have emitted, one row for each value; offset counts within (execution, stream).
--               WITHOUT ROWID: a stream is appended to at its end and read in order, so its values lie side by side.
-- tags          for each tag its executions, newest first.
-- workers       one row for each process that executes.
--
-- Status of an execution: queued -> running <-> sleeping | listening | paused -> completed | failed | cancelled | aborted.
--   claim       queued, sleeping, listening -> running: epoch + 1, owner set; needs owner NULL and wake_at reached
--   park        running -> sleeping, listening: owner NULL, wake_at set (or NULL: woken by an event only)
--   release     running -> queued: owner NULL
--   wake        an event or the end of another execution arrives: listening -> wake_at now, if it has no owner
--   finish      running -> a terminal status: owner NULL, wake_at NULL; nothing changes it any more in this run; orphaning 1
--               if it ended badly and has attached children that live
--   cancel      any but terminal -> cancelled: epoch + 1, owner NULL, the fence of the owner's row + 1
--   pause       any but terminal -> paused; an owner keeps it, is told by signal + 1 and fence + 1, and leaves as soon as no
--               body runs. wake_at is the deadline: the due claim takes what is paused then, to fail it. One that was never
--               started has no deadline, and keeps the wake_at of its delay.
--   resume      paused -> queued, wake_at now; running if its owner has not left yet
--   wake        an open sleep or backoff ends: steps.wake_at now, flag 'woken'; sleeping, listening -> wake_at now
--   new run     restart: any, retry: failed, cancelled, aborted -> queued: run + 1, epoch + 1, owner NULL, fence + 1; the end
--               of the old run is kept in its payloads, the rows of the steps that are kept are copied to the new run
--   cancel+undo the same, but -> queued with ending 'cancelled', claimable: the undos run, then finish
--   delete      a terminal one that no living one refers to, with orphaning 0: its rows leave all tables, in one transaction
--   reap        whatever a dead worker owned -> queued: owner NULL, crashed 1; the worker's row is deleted
-- A status other than queued, sleeping and listening with owner NULL is terminal or paused; paused with an owner is leaving. sleeping and listening with an
-- owner wait in that worker's memory.
-- Status of a step: running, retrying, sleeping, listening -> completed | failed | cancelled. It has ended when finished_at
-- is set, and never changes afterwards.
--
-- Lock order: SQLite has one lock for writers, and every transaction takes it with its first statement (BEGIN IMMEDIATE).
-- Within a transaction the worker's row is read before executions.
--
-- Times are microseconds since 1970 UTC; workers.lease_until alone counts in the uptime of workers.boot_id. Payloads are
-- JSON text. Read the views stepwell_executions and stepwell_steps: their columns stay, tables may change.

CREATE TABLE executions (
    id           TEXT    NOT NULL PRIMARY KEY,
    workflow     TEXT    NOT NULL,
    status       TEXT    NOT NULL,
    owner        TEXT,
    epoch        INTEGER NOT NULL,
    run          INTEGER NOT NULL DEFAULT 1,
    generation   INTEGER NOT NULL DEFAULT 1,
    wake_at      INTEGER,
    waiting_for  TEXT,
    priority     INTEGER NOT NULL,
    version      TEXT,
    parent_id    TEXT,
    parent_run   INTEGER, -- the run and the step of the parent that started it
    parent_path  TEXT,
    attached     INTEGER NOT NULL DEFAULT 0, -- 1: is cancelled when its parent ends badly
    options      TEXT,
    timeout      INTEGER,
    deadline_at  INTEGER,
    crashes      INTEGER NOT NULL DEFAULT 0, -- deaths in a row, as counted by claims
    crashed      INTEGER NOT NULL DEFAULT 0, -- 1: its last worker died; the next claim counts it
    ending       TEXT, -- 'failed' (with payloads.error), 'cancelled': decided already, only cleans up
    orphaning    INTEGER NOT NULL DEFAULT 0, -- 1: ended badly, its attached children are still to be cancelled
    signal       INTEGER NOT NULL DEFAULT 0, -- raised by what the owner must look at: pause, wake
    retention    INTEGER, -- how long it is kept after its end; NULL: for ever
    reason       TEXT,
    request      TEXT,
    created_at   INTEGER NOT NULL,
    started_at   INTEGER,
    finished_at  INTEGER
) WITHOUT ROWID;

-- Claiming. The workflow comes first, so that work of workflows that a worker does not know costs it nothing.
CREATE INDEX executions_queue ON executions (workflow, priority DESC, wake_at, id)
    WHERE owner IS NULL AND status = 'queued' AND crashes + crashed < 2;
CREATE INDEX executions_due ON executions (workflow, wake_at, id)
    WHERE owner IS NULL AND status IN ('sleeping', 'listening', 'paused')
        AND (status <> 'paused' OR deadline_at IS NOT NULL) AND wake_at IS NOT NULL AND crashes + crashed < 2;
CREATE INDEX executions_suspect ON executions (workflow, wake_at, id)
    WHERE owner IS NULL AND status IN ('queued', 'sleeping', 'listening', 'paused')
        AND (status <> 'paused' OR deadline_at IS NOT NULL) AND wake_at IS NOT NULL AND crashes + crashed >= 2;
CREATE INDEX executions_owner ON executions (owner, id, epoch, signal) WHERE owner IS NOT NULL;

-- Children of a parent, and parents that still have to see to theirs.
CREATE INDEX executions_parent ON executions (parent_id, created_at, id) WHERE parent_id IS NOT NULL;
CREATE INDEX executions_orphaning ON executions (orphaning, id) WHERE orphaning = 1;

-- What is to be deleted, by the time at which its retention ends.
CREATE INDEX executions_expiry ON executions (finished_at + retention, id)
    WHERE finished_at IS NOT NULL AND retention IS NOT NULL;

-- Lists for people. A list of a workflow merges its nine statuses.
CREATE INDEX executions_created ON executions (created_at, id);
CREATE INDEX executions_status ON executions (status, created_at, id);
CREATE INDEX executions_workflow ON executions (workflow, status, created_at, id);

CREATE TABLE payloads (
    execution_id TEXT    NOT NULL,
    run          INTEGER NOT NULL,
    input        TEXT,
    output       TEXT,
    error        TEXT,
    status       TEXT, -- of a run that another one has followed, as are the next three; NULL for the current run
    reason       TEXT,
    started_at   INTEGER,
    finished_at  INTEGER,
    request      TEXT, -- of the restart or retry that began this run: sent again, it is recognised
    PRIMARY KEY (execution_id, run)
);

CREATE TABLE steps (
    execution_id TEXT    NOT NULL,
    run          INTEGER NOT NULL,
    path         TEXT    NOT NULL,
    seq          INTEGER NOT NULL,
    kind         TEXT    NOT NULL,
    status       TEXT    NOT NULL,
    attempt      INTEGER NOT NULL,
    epoch        INTEGER NOT NULL, -- of the claim under which the row was last written
    input        TEXT,
    output       TEXT,
    error        TEXT,
    flag         TEXT,
    awaits       TEXT, -- of a listening step: the name of the event, or the id of the execution
    undo         TEXT, -- of a step that has an undo: the name of its function, or 1
    started_at   INTEGER NOT NULL,
    finished_at  INTEGER,
    wake_at      INTEGER,
    PRIMARY KEY (execution_id, run, path)
);

-- Ending an execution cancels its open steps without looking at the thousands that have ended.
CREATE INDEX steps_open ON steps (execution_id, run) WHERE finished_at IS NULL;

-- Who waits for the end of an execution.
CREATE INDEX steps_awaits ON steps (awaits) WHERE awaits IS NOT NULL AND kind <> 'listen' AND finished_at IS NULL;

CREATE TABLE attempts (
    execution_id TEXT    NOT NULL,
    run          INTEGER NOT NULL,
    path         TEXT    NOT NULL,
    attempt      INTEGER NOT NULL,
    error        TEXT    NOT NULL,
    started_at   INTEGER NOT NULL,
    finished_at  INTEGER NOT NULL,
    worker       TEXT,
    PRIMARY KEY (execution_id, run, path, attempt)
);

CREATE TABLE events (
    number       INTEGER NOT NULL PRIMARY KEY, -- the order in which they were accepted
    execution_id TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    payload      TEXT    NOT NULL,
    sent_at      INTEGER NOT NULL,
    received_at  INTEGER, -- set with the next two in the transaction that completes the step
    received_run INTEGER,
    received_by  TEXT
);

CREATE UNIQUE INDEX events_id ON events (execution_id, id);
CREATE INDEX events_waiting ON events (execution_id, name, number) WHERE received_at IS NULL;

CREATE TABLE streams (
    execution_id TEXT    NOT NULL,
    stream       TEXT    NOT NULL,
    "offset"     INTEGER NOT NULL, -- 1, 2, 3, … without gaps, in the order of writing
    run          INTEGER NOT NULL,
    path         TEXT    NOT NULL, -- of the step that emitted it; empty for workflow code
    take         INTEGER NOT NULL, -- a body that ran again and emitted something else began the next one
    n            INTEGER NOT NULL, -- counts from 0 within the take
    value        TEXT    NOT NULL,
    emitted_at   INTEGER NOT NULL,
    PRIMARY KEY (execution_id, stream, "offset")
) WITHOUT ROWID;

-- A value that is sent again after an unknown commit meets its own row; a body that runs again finds what it has emitted.
CREATE UNIQUE INDEX streams_place ON streams (execution_id, run, path, stream, take, n);

CREATE TABLE tags (
    tag          TEXT    NOT NULL,
    created_at   INTEGER NOT NULL, -- of the execution: a list by tag is in its order
    execution_id TEXT    NOT NULL,
    PRIMARY KEY (tag, created_at, execution_id)
) WITHOUT ROWID;

CREATE INDEX tags_execution ON tags (execution_id, tag);

CREATE TABLE workers (
    id             TEXT    NOT NULL PRIMARY KEY,
    host           TEXT    NOT NULL,
    boot_id        TEXT    NOT NULL,
    pid            INTEGER NOT NULL,
    pid_started_at TEXT    NOT NULL,
    app            TEXT    NOT NULL,
    version        TEXT    NOT NULL,
    concurrency    INTEGER NOT NULL,
    started_at     INTEGER NOT NULL,
    lease_until    INTEGER NOT NULL,
    fence          INTEGER NOT NULL DEFAULT 0 -- raised by whoever takes an execution away from this worker
) WITHOUT ROWID;

CREATE VIEW stepwell_executions AS
SELECT
    e.id,
    e.workflow,
    e.status,
    e.run,
    e.owner AS worker,
    e.priority,
    e.version,
    e.parent_id,
    e.waiting_for,
    e.reason,
    e.crashes,
    p.input,
    p.output,
    p.error,
    strftime('%Y-%m-%dT%H:%M:%S', e.created_at / 1000000, 'unixepoch') || printf('.%06dZ', e.created_at % 1000000) AS created_at,
    strftime('%Y-%m-%dT%H:%M:%S', e.started_at / 1000000, 'unixepoch') || printf('.%06dZ', e.started_at % 1000000) AS started_at,
    strftime('%Y-%m-%dT%H:%M:%S', e.finished_at / 1000000, 'unixepoch') || printf('.%06dZ', e.finished_at % 1000000) AS finished_at,
    strftime('%Y-%m-%dT%H:%M:%S', e.wake_at / 1000000, 'unixepoch') || printf('.%06dZ', e.wake_at % 1000000) AS wake_at,
    strftime('%Y-%m-%dT%H:%M:%S', e.deadline_at / 1000000, 'unixepoch') || printf('.%06dZ', e.deadline_at % 1000000) AS deadline_at
FROM executions AS e
LEFT JOIN payloads AS p ON p.execution_id = e.id AND p.run = e.run;

CREATE VIEW stepwell_steps AS
SELECT
    s.execution_id,
    s.run,
    s.path,
    s.kind,
    s.status,
    s.attempt,
    s.flag,
    s.input,
    s.output,
    s.error,
    strftime('%Y-%m-%dT%H:%M:%S', s.started_at / 1000000, 'unixepoch') || printf('.%06dZ', s.started_at % 1000000) AS started_at,
    strftime('%Y-%m-%dT%H:%M:%S', s.finished_at / 1000000, 'unixepoch') || printf('.%06dZ', s.finished_at % 1000000) AS finished_at,
    strftime('%Y-%m-%dT%H:%M:%S', s.wake_at / 1000000, 'unixepoch') || printf('.%06dZ', s.wake_at % 1000000) AS wake_at
FROM steps AS s;
