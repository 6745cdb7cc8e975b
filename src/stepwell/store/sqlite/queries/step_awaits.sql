UPDATE steps SET awaits = ? WHERE execution_id = ? AND run = ? AND path = ?
