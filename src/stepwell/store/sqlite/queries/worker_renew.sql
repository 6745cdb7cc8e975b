UPDATE workers SET lease_until = :lease_until WHERE id = :worker_id
