-- An owner that has not left yet goes on. A delay of what was never started stays.
UPDATE executions
SET
    status = iif(owner IS NULL, 'queued', 'running'),
    signal = signal + 1,
    wake_at = CASE WHEN owner IS NOT NULL THEN NULL WHEN started_at IS NULL THEN wake_at ELSE :now END,
    waiting_for = NULL
WHERE id = :id
