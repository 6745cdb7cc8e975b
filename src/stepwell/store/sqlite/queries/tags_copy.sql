INSERT INTO tags (tag, created_at, execution_id)
SELECT tag, :now, :new_id
FROM tags
WHERE execution_id = :id
