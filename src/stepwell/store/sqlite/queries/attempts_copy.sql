INSERT INTO attempts (execution_id, run, path, attempt, error, started_at, finished_at, worker)
SELECT :to_id, :to_run, a.path, a.attempt, a.error, a.started_at, a.finished_at, a.worker
FROM json_each(:numbers) AS kept
CROSS JOIN steps AS s ON s.rowid = kept.value
CROSS JOIN attempts AS a ON a.execution_id = s.execution_id AND a.run = s.run AND a.path = s.path
