-- A bad end is also that of the attached children that still live.
UPDATE executions
SET orphaning = 1
WHERE id = :id
    AND EXISTS (
        SELECT 1
        FROM executions AS c INDEXED BY executions_parent
        WHERE c.parent_id = executions.id
            AND c.attached
            AND c.status NOT IN ('completed', 'failed', 'cancelled', 'aborted')
    )
