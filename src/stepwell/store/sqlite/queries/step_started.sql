INSERT INTO steps (execution_id, epoch, run, path, seq, kind, status, attempt, input, started_at)
VALUES (?, ?, ?, ?, ?, ?, 'running', ?, ?, ?)
ON CONFLICT (execution_id, run, path) DO UPDATE SET
    epoch = excluded.epoch,
    status = excluded.status,
    attempt = excluded.attempt,
    input = COALESCE(excluded.input, input),
    wake_at = NULL
WHERE status IN ('running', 'retrying') AND attempt <= excluded.attempt AND epoch <= excluded.epoch
