INSERT INTO streams (execution_id, stream, run, path, take, n, value, emitted_at, "offset")
VALUES (
    ?, ?, ?, ?, ?, ?, ?, ?,
    (SELECT COALESCE(MAX("offset"), 0) + 1 FROM streams WHERE execution_id = ? AND stream = ?)
)
ON CONFLICT (execution_id, run, path, stream, take, n) DO NOTHING
