SELECT request FROM payloads WHERE execution_id = :id AND run = :run
