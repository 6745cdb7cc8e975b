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
FROM executions AS e INDEXED BY executions_created
WHERE
    (e.created_at, e.id) < (:created_at, :id) AND e.created_at >= :since
    AND e.id >= :first_id AND e.id < :last_id
ORDER BY e.created_at DESC, e.id DESC
LIMIT :limit
