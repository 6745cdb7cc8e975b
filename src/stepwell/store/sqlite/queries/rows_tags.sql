SELECT * FROM tags WHERE execution_id = :id ORDER BY tag
