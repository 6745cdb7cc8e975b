-- The parameters are the fields of StepFinished in their order.
INSERT INTO steps (
    execution_id, epoch, run, path, seq, kind, status, attempt, input, output, error, started_at, finished_at,
    undo
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (execution_id, run, path) DO UPDATE SET
    epoch = excluded.epoch,
    status = excluded.status,
    attempt = excluded.attempt,
    input = COALESCE(excluded.input, input),
    output = excluded.output,
    error = excluded.error,
    started_at = MIN(started_at, excluded.started_at),
    finished_at = excluded.finished_at,
    wake_at = NULL,
    undo = excluded.undo
WHERE finished_at IS NULL
