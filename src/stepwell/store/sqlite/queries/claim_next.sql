-- When the next waiting execution of each workflow becomes due.
SELECT MIN(next_at)
FROM (
    SELECT (
        SELECT MIN(wake_at)
        FROM executions INDEXED BY executions_due
        WHERE workflow = known.value
            AND owner IS NULL AND status IN ('sleeping', 'listening', 'paused')
            AND (status <> 'paused' OR deadline_at IS NOT NULL) AND crashes + crashed < 2
            AND wake_at > :now
    ) AS next_at
    FROM json_each(:workflows) AS known
    UNION ALL
    SELECT (
        SELECT MIN(wake_at)
        FROM executions INDEXED BY executions_suspect
        WHERE workflow = known.value
            AND owner IS NULL AND status IN ('queued', 'sleeping', 'listening', 'paused')
            AND (status <> 'paused' OR deadline_at IS NOT NULL) AND crashes + crashed >= 2
            AND wake_at > :now
    ) AS next_at
    FROM json_each(:workflows) AS known
)
