SELECT status, COUNT(*) FROM executions GROUP BY status
