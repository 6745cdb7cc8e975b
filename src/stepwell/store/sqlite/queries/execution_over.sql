SELECT e.status, e.reason, p.output, p.error
FROM executions AS e
LEFT JOIN payloads AS p ON p.execution_id = e.id AND p.run = e.run
WHERE e.id = :id
