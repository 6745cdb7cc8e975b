SELECT * FROM attempts WHERE execution_id = :id ORDER BY run, path, attempt
