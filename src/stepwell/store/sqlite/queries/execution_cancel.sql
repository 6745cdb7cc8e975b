UPDATE executions
SET
    status = 'cancelled',
    epoch = epoch + 1,
    owner = NULL,
    wake_at = NULL,
    waiting_for = NULL,
    reason = COALESCE(:reason, reason),
    finished_at = :now
WHERE id = :id
