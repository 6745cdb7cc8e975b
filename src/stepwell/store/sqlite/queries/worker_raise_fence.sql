UPDATE workers SET fence = fence + 1 WHERE id = :worker_id
