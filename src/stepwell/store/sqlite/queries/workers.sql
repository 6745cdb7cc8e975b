SELECT id, host, boot_id, pid, pid_started_at, app, version, concurrency, started_at, lease_until, fence
FROM workers
ORDER BY started_at, id
