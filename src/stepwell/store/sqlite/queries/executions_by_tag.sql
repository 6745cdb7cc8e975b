-- The other tags are looked for in the index, before the row of an execution is touched.
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
FROM tags AS first
CROSS JOIN executions AS e ON e.id = first.execution_id
WHERE
    first.tag = :tag
    AND (first.created_at, first.execution_id) < (:created_at, :id) AND first.created_at >= :since
    AND first.execution_id >= :first_id AND first.execution_id < :last_id
    AND (
        :tags IS NULL
        OR NOT EXISTS (
            SELECT 1
            FROM json_each(:tags) AS wanted
            WHERE NOT EXISTS (
                SELECT 1
                FROM tags AS t
                WHERE t.tag = wanted.value AND t.created_at = first.created_at AND t.execution_id = first.execution_id
            )
        )
    )
    AND (:statuses IS NULL OR e.status IN (SELECT value FROM json_each(:statuses)))
    AND (:workflow IS NULL OR e.workflow = :workflow)
ORDER BY first.created_at DESC, first.execution_id DESC
LIMIT :limit
