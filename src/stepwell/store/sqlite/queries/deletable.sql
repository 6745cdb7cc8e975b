SELECT status, orphaning FROM executions WHERE id = :id
