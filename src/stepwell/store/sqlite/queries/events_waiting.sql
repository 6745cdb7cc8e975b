-- Which of these names of these executions have an event that nobody has received yet.
SELECT json_extract(wanted.value, '$[0]'), json_extract(wanted.value, '$[1]')
FROM json_each(:wanted) AS wanted
WHERE EXISTS (
    SELECT 1
    FROM events AS v INDEXED BY events_waiting
    WHERE v.execution_id = json_extract(wanted.value, '$[0]')
        AND v.name = json_extract(wanted.value, '$[1]')
        AND v.received_at IS NULL
)
