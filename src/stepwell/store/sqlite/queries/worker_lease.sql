SELECT boot_id, lease_until FROM workers WHERE id = :worker_id
