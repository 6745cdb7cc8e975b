-- What stands under the ids, to tell a repeated request from another one.
SELECT e.id, e.request, e.workflow, p.input
FROM json_each(:ids) AS wanted
CROSS JOIN executions AS e ON e.id = wanted.value
LEFT JOIN payloads AS p ON p.execution_id = e.id AND p.run = 1
