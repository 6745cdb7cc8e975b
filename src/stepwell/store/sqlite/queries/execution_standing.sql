SELECT workflow, status, run FROM executions WHERE id = :id
