SELECT * FROM steps WHERE execution_id = :id ORDER BY run, started_at, seq, path
