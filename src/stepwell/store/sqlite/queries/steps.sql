SELECT
    s.run,
    s.path,
    s.seq,
    s.kind,
    s.status,
    s.attempt,
    s.input,
    s.output,
    s.error,
    s.flag,
    s.started_at,
    s.finished_at,
    s.wake_at,
    s.awaits,
    s.undo IS NOT NULL
        AND EXISTS (
            SELECT 1
            FROM steps AS u
            WHERE u.execution_id = s.execution_id
                AND u.run = s.run
                AND u.path = '#undo/' || s.path
                AND u.status = 'completed'
        ) AS undone
FROM executions AS e
CROSS JOIN steps AS s ON s.execution_id = e.id AND s.run = COALESCE(:run, e.run)
WHERE e.id = :id
ORDER BY s.started_at, s.seq, s.path
