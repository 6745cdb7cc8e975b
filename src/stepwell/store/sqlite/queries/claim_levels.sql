-- The priorities that occur in the queue of each workflow, and when the next delayed one of each becomes due. A step down
-- the index for each level, however many rows it has.
WITH RECURSIVE levels (workflow, priority) AS (
    SELECT
        known.value,
        (
            SELECT MAX(priority)
            FROM executions INDEXED BY executions_queue
            WHERE workflow = known.value AND owner IS NULL AND status = 'queued' AND crashes + crashed < 2
        )
    FROM json_each(:workflows) AS known
    UNION ALL
    SELECT
        levels.workflow,
        (
            SELECT MAX(priority)
            FROM executions INDEXED BY executions_queue
            WHERE workflow = levels.workflow
                AND owner IS NULL AND status = 'queued' AND crashes + crashed < 2
                AND priority < levels.priority
        )
    FROM levels
    WHERE levels.priority IS NOT NULL
)
SELECT
    workflow,
    priority,
    (
        SELECT MIN(wake_at)
        FROM executions INDEXED BY executions_queue
        WHERE workflow = levels.workflow
            AND owner IS NULL AND status = 'queued' AND crashes + crashed < 2
            AND priority = levels.priority
            AND wake_at > :now
    ) AS next_at
FROM levels
WHERE priority IS NOT NULL
ORDER BY priority DESC
