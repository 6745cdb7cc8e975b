UPDATE executions
SET crashes = 0
WHERE id = :id AND crashes > 0
