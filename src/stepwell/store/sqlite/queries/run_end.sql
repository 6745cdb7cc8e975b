-- The end of a run, kept beside its payloads before the next one begins.
UPDATE payloads
SET (status, reason, started_at, finished_at) = (
    SELECT e.status, e.reason, e.started_at, e.finished_at
    FROM executions AS e
    WHERE e.id = :id
)
WHERE execution_id = :id AND run = :run
