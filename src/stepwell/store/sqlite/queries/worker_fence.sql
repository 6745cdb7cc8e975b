SELECT fence FROM workers WHERE id = :worker_id
