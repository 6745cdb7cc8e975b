INSERT INTO workers (
    id, host, boot_id, pid, pid_started_at, app, version, concurrency, started_at, lease_until
)
VALUES (:id, :host, :boot_id, :pid, :pid_started_at, :app, :version, :concurrency, :started_at, :lease_until)
ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until
