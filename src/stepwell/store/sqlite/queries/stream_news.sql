SELECT wanted.key
FROM json_each(:waits) AS wanted
WHERE
    EXISTS (
        SELECT 1
        FROM streams AS s
        WHERE
            s.execution_id = json_extract(wanted.value, '$[0]')
            AND s.stream = json_extract(wanted.value, '$[1]')
            AND s."offset" > json_extract(wanted.value, '$[2]')
    )
    OR NOT EXISTS (
        SELECT 1
        FROM executions AS e
        WHERE
            e.id = json_extract(wanted.value, '$[0]')
            AND e.status NOT IN ('completed', 'failed', 'cancelled', 'aborted')
    )
