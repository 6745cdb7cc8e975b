-- Attached children of parents that have ended badly, or of their earlier runs.
SELECT c.id, e.id
FROM executions AS e INDEXED BY executions_orphaning
CROSS JOIN executions AS c INDEXED BY executions_parent ON c.parent_id = e.id
WHERE e.orphaning = 1
    AND c.attached
    AND c.status NOT IN ('completed', 'failed', 'cancelled', 'aborted')
    AND (c.parent_run <> e.run OR e.status IN ('failed', 'cancelled', 'aborted'))
LIMIT :limit
