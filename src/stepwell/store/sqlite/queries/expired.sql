-- A page of executions whose time is over, in the order of its end.
SELECT e.finished_at + e.retention, e.id
FROM executions AS e INDEXED BY executions_expiry
WHERE
    e.finished_at IS NOT NULL
    AND e.retention IS NOT NULL
    AND e.finished_at + e.retention >= :after
    AND e.finished_at + e.retention <= :now
    AND (e.finished_at + e.retention > :after OR e.id > :after_id)
ORDER BY e.finished_at + e.retention, e.id
LIMIT :limit
