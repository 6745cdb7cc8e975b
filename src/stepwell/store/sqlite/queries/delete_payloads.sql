DELETE FROM payloads WHERE execution_id = :id
