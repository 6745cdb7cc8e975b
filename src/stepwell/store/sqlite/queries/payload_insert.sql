INSERT INTO payloads (execution_id, run, input)
VALUES (?, 1, ?)
ON CONFLICT (execution_id, run) DO NOTHING
