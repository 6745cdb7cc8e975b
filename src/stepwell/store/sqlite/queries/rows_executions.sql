SELECT * FROM executions WHERE id = :id
