UPDATE executions
SET ending = 'failed'
WHERE id = ? AND owner = ? AND epoch = ?
