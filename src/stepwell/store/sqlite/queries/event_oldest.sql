SELECT number, payload
FROM events INDEXED BY events_waiting
WHERE execution_id = :execution_id AND name = :name AND received_at IS NULL
ORDER BY number
LIMIT 1
