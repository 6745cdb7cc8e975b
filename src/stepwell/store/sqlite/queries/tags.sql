SELECT t.execution_id, t.tag
FROM json_each(:ids) AS wanted
CROSS JOIN tags AS t ON t.execution_id = wanted.value
ORDER BY t.execution_id, t.tag
