SELECT
    e.id,
    e.workflow,
    e.epoch,
    e.run,
    e.generation,
    p.input,
    e.created_at,
    e.started_at,
    e.deadline_at,
    e.options,
    e.version,
    e.crashes,
    e.ending,
    e.reason,
    e.signal,
    CASE WHEN e.ending = 'failed' THEN p.error END AS failing,
    e.status = 'paused' AS paused
FROM json_each(:ids) AS wanted
CROSS JOIN executions AS e ON e.id = wanted.value
LEFT JOIN payloads AS p ON p.execution_id = e.id AND p.run = e.run
WHERE +e.owner = :worker_id
ORDER BY wanted.key
