-- A deadline that was stored before stays.
INSERT INTO steps (execution_id, epoch, run, path, seq, kind, status, attempt, input, started_at, wake_at, awaits)
VALUES (?, ?, ?, ?, ?, ?, 'listening', 1, ?, ?, ?, ?)
ON CONFLICT (execution_id, run, path) DO UPDATE SET
    epoch = excluded.epoch,
    status = excluded.status,
    input = COALESCE(excluded.input, input),
    wake_at = excluded.wake_at,
    awaits = excluded.awaits
WHERE status IN ('running', 'retrying') AND epoch <= excluded.epoch
