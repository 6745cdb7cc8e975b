UPDATE payloads
SET output = ?, error = COALESCE(?, error)
WHERE execution_id = ? AND run = ?
