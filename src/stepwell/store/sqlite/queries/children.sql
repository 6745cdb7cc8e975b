SELECT
    e.id,
    e.workflow,
    e.status,
    e.run,
    e.generation,
    e.epoch,
    e.owner,
    e.priority,
    e.version,
    e.parent_id,
    e.created_at,
    e.started_at,
    e.finished_at,
    e.wake_at,
    e.deadline_at,
    e.waiting_for,
    e.reason,
    e.crashes,
    e.ending
FROM executions AS e INDEXED BY executions_parent
WHERE e.parent_id = :id
ORDER BY e.created_at, e.id
LIMIT :limit
