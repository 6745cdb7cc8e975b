-- By age, as if it had never left the queue.
UPDATE executions
SET
    status = 'queued',
    epoch = epoch + 1,
    owner = NULL,
    wake_at = MIN(created_at, :now),
    waiting_for = NULL,
    ending = 'cancelled',
    reason = :reason
WHERE id = :id
