SELECT wake_at, id
FROM executions INDEXED BY executions_due
WHERE workflow = :workflow
    AND owner IS NULL AND status IN ('sleeping', 'listening', 'paused')
    AND (status <> 'paused' OR deadline_at IS NOT NULL) AND crashes + crashed < 2
    AND wake_at <= :now
ORDER BY wake_at, id
LIMIT :limit
