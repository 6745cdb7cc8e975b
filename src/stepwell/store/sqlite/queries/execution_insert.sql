INSERT INTO executions (
    id, workflow, status, owner, epoch, wake_at, priority, version, parent_id, parent_run, parent_path,
    attached, retention, options, timeout, deadline_at, request,
    created_at, started_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING
