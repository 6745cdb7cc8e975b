-- When the time of the next one is over, from this moment on.
SELECT e.finished_at + e.retention
FROM executions AS e INDEXED BY executions_expiry
WHERE e.finished_at IS NOT NULL AND e.retention IS NOT NULL AND e.finished_at + e.retention > :after
ORDER BY e.finished_at + e.retention
LIMIT 1
