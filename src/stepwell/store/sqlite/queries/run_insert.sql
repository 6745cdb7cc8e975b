INSERT INTO payloads (execution_id, run, input, request)
SELECT :to_id, :to_run, COALESCE(:input, input), :request
FROM payloads
WHERE execution_id = :id AND run = :run
