UPDATE executions
SET owner = NULL, status = 'queued', wake_at = :now, waiting_for = NULL, crashed = :crashed
WHERE owner = :worker_id
