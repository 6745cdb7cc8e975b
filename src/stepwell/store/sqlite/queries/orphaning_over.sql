UPDATE executions
SET orphaning = 0
WHERE orphaning = 1
    AND NOT EXISTS (
        SELECT 1
        FROM executions AS c INDEXED BY executions_parent
        WHERE c.parent_id = executions.id
            AND c.attached
            AND c.status NOT IN ('completed', 'failed', 'cancelled', 'aborted')
            AND (c.parent_run <> executions.run OR executions.status IN ('failed', 'cancelled', 'aborted'))
    )
