UPDATE executions
SET status = 'running', wake_at = NULL, waiting_for = NULL
WHERE id = ? AND owner = ? AND epoch = ?
