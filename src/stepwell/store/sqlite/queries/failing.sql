UPDATE executions
SET failing = 1
WHERE id = ? AND owner = ? AND epoch = ?
