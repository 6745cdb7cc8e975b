-- Without payloads. Rows keep their rowid when they change, so it counts the first records.
SELECT s.rowid, s.path, s.kind, s.status, s.started_at, s.finished_at, c.id, c.status
FROM steps AS s
LEFT JOIN executions AS c ON c.id = s.awaits AND c.parent_id = s.execution_id AND c.attached
WHERE s.execution_id = :id AND s.run = :run
ORDER BY s.rowid
