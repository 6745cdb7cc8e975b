SELECT parent_id, parent_path, workflow FROM executions WHERE id = :id
