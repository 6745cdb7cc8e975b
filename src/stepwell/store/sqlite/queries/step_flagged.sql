UPDATE steps SET flag = ? WHERE execution_id = ? AND run = ? AND path = ?
