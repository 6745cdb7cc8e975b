UPDATE executions
SET
    status = iif(status = 'paused', status, 'running'),
    wake_at = iif(status = 'paused', wake_at, NULL),
    waiting_for = NULL
WHERE id = ? AND owner = ? AND epoch = ?
