SELECT status, owner, run FROM executions WHERE id = :id
