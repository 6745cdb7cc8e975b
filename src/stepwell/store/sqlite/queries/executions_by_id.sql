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
FROM executions AS e
WHERE
    e.id >= :first_id AND e.id < :last_id
    AND (+e.created_at, +e.id) < (:created_at, :id) AND +e.created_at >= :since
    AND (:statuses IS NULL OR e.status IN (SELECT value FROM json_each(:statuses)))
    AND (:workflow IS NULL OR e.workflow = :workflow)
    AND NOT EXISTS (
        SELECT 1
        FROM json_each(:tags) AS wanted
        WHERE NOT EXISTS (
            SELECT 1
            FROM tags AS t
            WHERE t.tag = wanted.value AND t.created_at = e.created_at AND t.execution_id = e.id
        )
    )
ORDER BY +e.created_at DESC, +e.id DESC
LIMIT :limit
