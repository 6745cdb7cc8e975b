DELETE FROM streams WHERE execution_id = :id
