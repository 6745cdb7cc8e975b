UPDATE executions
SET crashes = 0
WHERE id = ? AND owner = ? AND epoch = ?
