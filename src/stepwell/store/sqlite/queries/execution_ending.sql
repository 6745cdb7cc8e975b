SELECT ending FROM executions WHERE id = :id
