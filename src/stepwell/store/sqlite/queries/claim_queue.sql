SELECT wake_at, id
FROM executions INDEXED BY executions_queue
WHERE workflow = :workflow
    AND owner IS NULL AND status = 'queued' AND crashes + crashed < 2
    AND priority = :priority
    AND wake_at <= :now
ORDER BY wake_at, id
LIMIT :limit
