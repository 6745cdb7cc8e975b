SELECT 1
FROM json_each(:waits) AS wanted
CROSS JOIN steps AS s
    ON s.execution_id = :id AND s.run = :run AND s.path = json_extract(wanted.value, '$[0]')
WHERE s.flag = 'woken'
LIMIT 1
