SELECT e.id
FROM json_each(:ids) AS wanted
CROSS JOIN executions AS e ON e.id = wanted.value
WHERE e.status NOT IN ('completed', 'failed', 'cancelled', 'aborted')
