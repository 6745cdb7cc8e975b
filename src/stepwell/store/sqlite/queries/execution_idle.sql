UPDATE executions
SET
    status = iif(status = 'paused', status, ?),
    wake_at = iif(status = 'paused', wake_at, ?),
    waiting_for = ?
WHERE id = ? AND owner = ? AND epoch = ?
