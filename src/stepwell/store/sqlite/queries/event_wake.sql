UPDATE executions
SET wake_at = :now
WHERE id = :execution_id
    AND owner IS NULL
    AND status = 'listening'
    AND EXISTS (
        SELECT 1
        FROM steps AS s INDEXED BY steps_open
        WHERE s.execution_id = executions.id
            AND s.run = executions.run
            AND s.finished_at IS NULL
            AND s.kind = 'listen'
            AND s.awaits = :name
    )
