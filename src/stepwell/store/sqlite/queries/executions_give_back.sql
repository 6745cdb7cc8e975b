UPDATE executions
SET owner = NULL, status = 'queued', wake_at = MIN(created_at, :now), waiting_for = NULL, crashed = CASE WHEN status = 'running' THEN :crashed ELSE 0 END
WHERE owner = :worker_id
