INSERT INTO steps (
    execution_id, run, path, seq, kind, status, attempt, epoch, input, output, error, flag, awaits, undo,
    started_at, finished_at, wake_at
)
SELECT
    :to_id, :to_run, path, seq, kind, status, attempt, epoch, input, output, error, flag, awaits, undo,
    started_at, finished_at, wake_at
FROM steps
WHERE rowid IN (SELECT value FROM json_each(:numbers))
ORDER BY rowid
