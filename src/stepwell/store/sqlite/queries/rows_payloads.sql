SELECT * FROM payloads WHERE execution_id = :id ORDER BY run
