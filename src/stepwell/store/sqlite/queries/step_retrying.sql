INSERT INTO steps (
    execution_id, epoch, run, path, seq, kind, status, attempt, input, error, started_at, wake_at
)
VALUES (?, ?, ?, ?, ?, ?, 'retrying', ?, ?, ?, ?, ?)
ON CONFLICT (execution_id, run, path) DO UPDATE SET
    epoch = excluded.epoch,
    status = excluded.status,
    attempt = excluded.attempt,
    input = COALESCE(excluded.input, input),
    error = excluded.error,
    wake_at = excluded.wake_at
WHERE finished_at IS NULL AND attempt <= excluded.attempt AND epoch <= excluded.epoch
