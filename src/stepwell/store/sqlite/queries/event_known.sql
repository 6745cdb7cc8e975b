SELECT name FROM events WHERE execution_id = :execution_id AND id = :id
