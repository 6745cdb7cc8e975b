DELETE FROM executions WHERE id = :id
