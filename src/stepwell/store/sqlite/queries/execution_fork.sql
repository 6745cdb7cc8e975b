INSERT INTO executions (
    id, workflow, status, epoch, wake_at, priority, version, options, timeout, retention, created_at
)
SELECT :new_id, workflow, 'queued', 0, :now, priority, version, options, timeout, retention, :now
FROM executions
WHERE id = :id
