SELECT
    s.execution_id,
    s.path,
    s.seq,
    s.kind,
    s.status,
    s.attempt,
    s.output,
    s.error,
    s.wake_at,
    s.started_at,
    s.undo,
    s.finished_at,
    CASE WHEN s.kind IN ('map', 'for_each', 'batch') THEN s.input END AS input
FROM json_each(:ids) AS wanted
CROSS JOIN executions AS e ON e.id = wanted.value
CROSS JOIN steps AS s ON s.execution_id = e.id AND s.run = e.run
