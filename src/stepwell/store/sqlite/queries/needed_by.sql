-- A living execution that refers to this one: it waits for its end, or is the parent to which it is attached.
SELECT w.id
FROM steps AS s INDEXED BY steps_awaits
CROSS JOIN executions AS w ON w.id = s.execution_id
WHERE s.awaits = :id
    AND s.kind <> 'listen'
    AND s.finished_at IS NULL
    AND w.status NOT IN ('completed', 'failed', 'cancelled', 'aborted')
UNION ALL
SELECT p.id
FROM executions AS c
CROSS JOIN executions AS p ON p.id = c.parent_id
WHERE c.id = :id
    AND c.attached
    AND p.status NOT IN ('completed', 'failed', 'cancelled', 'aborted')
LIMIT 1
