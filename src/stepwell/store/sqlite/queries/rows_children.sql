SELECT id
FROM executions INDEXED BY executions_parent
WHERE parent_id = :id
ORDER BY created_at, id
