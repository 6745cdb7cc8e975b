-- For tags that are common: they are looked for in the index, before the row of an execution is touched.
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
FROM executions AS x INDEXED BY executions_status
CROSS JOIN executions AS e ON e.id = x.id
WHERE
    x.status = :status
    AND (x.created_at, x.id) < (:created_at, :id) AND x.created_at >= :since
    AND x.id >= :first_id AND x.id < :last_id
    AND EXISTS (
        SELECT 1
        FROM tags AS first
        WHERE first.tag = :tag AND first.created_at = x.created_at AND first.execution_id = x.id
    )
    AND (
        :tags IS NULL
        OR NOT EXISTS (
            SELECT 1
            FROM json_each(:tags) AS wanted
            WHERE NOT EXISTS (
                SELECT 1
                FROM tags AS t
                WHERE t.tag = wanted.value AND t.created_at = x.created_at AND t.execution_id = x.id
            )
        )
    )
ORDER BY x.created_at DESC, x.id DESC
LIMIT :limit
