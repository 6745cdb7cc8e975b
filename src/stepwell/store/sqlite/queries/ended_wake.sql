-- Executions that wait for the end of this one, outside of memory.
UPDATE executions
SET wake_at = :now
WHERE owner IS NULL
    AND status = 'listening'
    AND id IN (
        SELECT s.execution_id
        FROM steps AS s INDEXED BY steps_awaits
        WHERE s.awaits = :id AND s.kind <> 'listen' AND s.finished_at IS NULL
    )
