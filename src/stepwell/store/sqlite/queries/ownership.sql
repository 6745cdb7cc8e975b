SELECT e.id, e.owner, e.epoch, e.status
FROM json_each(:ids) AS wanted
CROSS JOIN executions AS e ON e.id = wanted.value
