SELECT
    p.run,
    iif(p.run = e.run, e.status, p.status),
    p.input,
    p.output,
    p.error,
    iif(p.run = e.run, e.reason, p.reason),
    iif(p.run = e.run, e.started_at, p.started_at),
    iif(p.run = e.run, e.finished_at, p.finished_at)
FROM executions AS e
CROSS JOIN payloads AS p ON p.execution_id = e.id
WHERE e.id = :id
ORDER BY p.run
