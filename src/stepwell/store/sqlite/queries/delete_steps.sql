DELETE FROM steps WHERE execution_id = :id
