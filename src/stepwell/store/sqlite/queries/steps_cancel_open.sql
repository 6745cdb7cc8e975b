UPDATE steps INDEXED BY steps_open
SET status = 'cancelled', wake_at = NULL, finished_at = :now
WHERE execution_id = :id AND run = :run AND finished_at IS NULL
