UPDATE executions
SET
    owner = :worker_id,
    epoch = epoch + 1,
    status = 'running',
    wake_at = NULL,
    waiting_for = NULL,
    started_at = COALESCE(started_at, :now),
    deadline_at = COALESCE(deadline_at, :now + timeout),
    crashes = crashes + crashed,
    crashed = 0
WHERE id IN (SELECT value FROM json_each(:ids))
