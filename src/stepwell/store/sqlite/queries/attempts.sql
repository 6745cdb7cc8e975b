SELECT
    a.path,
    a.attempt,
    a.error,
    a.started_at,
    a.finished_at,
    a.worker
FROM executions AS e
CROSS JOIN attempts AS a ON a.execution_id = e.id AND a.run = COALESCE(:run, e.run)
WHERE e.id = :id
ORDER BY a.path, a.attempt
