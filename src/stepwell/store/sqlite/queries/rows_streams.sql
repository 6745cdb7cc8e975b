SELECT * FROM streams WHERE execution_id = :id ORDER BY stream, "offset"
