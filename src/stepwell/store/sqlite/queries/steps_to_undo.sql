-- A path that begins with # is of the engine: what it holds is not undone.
SELECT 1
FROM steps AS s
WHERE s.execution_id = :id
    AND s.run = :run
    AND s.undo IS NOT NULL
    AND s.status = 'completed'
    AND s.path NOT LIKE '#%'
    AND NOT EXISTS (
        SELECT 1
        FROM steps AS u
        WHERE u.execution_id = s.execution_id
            AND u.run = s.run
            AND u.path = '#undo/' || s.path
            AND u.finished_at IS NOT NULL
    )
LIMIT 1
