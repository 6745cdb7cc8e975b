UPDATE executions
SET
    status = ?,
    owner = NULL,
    wake_at = NULL,
    waiting_for = NULL,
    reason = ?,
    finished_at = ?
WHERE id = ? AND owner = ? AND epoch = ?
