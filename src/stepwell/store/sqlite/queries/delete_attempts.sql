DELETE FROM attempts WHERE execution_id = :id
