UPDATE executions
SET status = ?, wake_at = ?, waiting_for = ?
WHERE id = ? AND owner = ? AND epoch = ?
