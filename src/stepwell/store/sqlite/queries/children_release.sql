-- What follows under the same id is not their parent: it neither meets them again nor cancels them.
UPDATE executions INDEXED BY executions_parent
SET parent_run = NULL, parent_path = NULL, attached = 0
WHERE parent_id = :id
