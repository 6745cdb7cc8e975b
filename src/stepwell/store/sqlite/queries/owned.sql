SELECT id, epoch, signal
FROM executions INDEXED BY executions_owner
WHERE owner = :worker_id
ORDER BY id
