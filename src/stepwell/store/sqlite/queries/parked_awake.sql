-- What the execution listens for may have come while it was in memory.
UPDATE executions
SET wake_at = created_at
WHERE id = :id
    AND status = 'listening'
    AND EXISTS (
        SELECT 1
        FROM steps AS s INDEXED BY steps_open
        WHERE s.execution_id = executions.id
            AND s.run = executions.run
            AND s.finished_at IS NULL
            AND s.status = 'listening'
            AND CASE
                WHEN s.kind = 'listen' THEN EXISTS (
                    SELECT 1
                    FROM events AS v INDEXED BY events_waiting
                    WHERE v.execution_id = s.execution_id AND v.name = s.awaits AND v.received_at IS NULL
                )
                ELSE EXISTS (
                    SELECT 1
                    FROM executions AS c
                    WHERE c.id = s.awaits AND c.status IN ('completed', 'failed', 'cancelled', 'aborted')
                )
            END
    )
