SELECT status, output
FROM steps
WHERE execution_id = :id AND run = :run AND path = :path AND finished_at IS NOT NULL
