INSERT INTO attempts (execution_id, run, path, attempt, error, started_at, finished_at, worker)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (execution_id, run, path, attempt) DO NOTHING
