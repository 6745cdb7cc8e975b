SELECT * FROM events WHERE execution_id = :id ORDER BY number
