-- What a kept step has started belongs to the new run.
UPDATE executions
SET parent_run = :run
WHERE id IN (SELECT value FROM json_each(:ids))
