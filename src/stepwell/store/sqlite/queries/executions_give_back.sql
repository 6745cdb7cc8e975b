-- By age, as if they had never left the queue; but suspects behind each other, so that the next crash hits another one.
-- What is paused stays so.
UPDATE executions
SET owner = NULL,
    status = iif(status = 'paused', status, 'queued'),
    wake_at = CASE
        WHEN status = 'paused' THEN iif(ending IS NULL, deadline_at, NULL)
        WHEN crashes + :crashed >= 2 AND status = 'running' THEN :now
        ELSE MIN(created_at, :now)
    END,
    waiting_for = NULL,
    crashed = CASE WHEN status = 'running' THEN :crashed ELSE 0 END
WHERE owner = :worker_id
