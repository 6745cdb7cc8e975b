-- A scalar MIN with a NULL is NULL: no wake_at means the deadline, no deadline means wake_at.
UPDATE executions
SET
    status = ?,
    owner = NULL,
    wake_at = COALESCE(MIN(?, deadline_at), ?, deadline_at),
    waiting_for = ?
WHERE id = ? AND owner = ? AND epoch = ?
