UPDATE payloads
SET error = ?
WHERE execution_id = ? AND run = ?
