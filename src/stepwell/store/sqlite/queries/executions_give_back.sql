-- By age, as if they had never left the queue; but suspects behind each other, so that the next crash hits another one.
UPDATE executions
SET owner = NULL,
    status = 'queued',
    wake_at = CASE
        WHEN crashes + :crashed >= 2 AND status = 'running' THEN :now
        ELSE MIN(created_at, :now)
    END,
    waiting_for = NULL,
    crashed = CASE WHEN status = 'running' THEN :crashed ELSE 0 END
WHERE owner = :worker_id
