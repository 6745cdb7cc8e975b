DELETE FROM tags WHERE execution_id = :id
