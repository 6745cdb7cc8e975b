SELECT
    e.id,
    e.workflow,
    e.status,
    e.run,
    e.generation,
    e.epoch,
    e.owner,
    e.priority,
    e.version,
    e.parent_id,
    e.created_at,
    e.started_at,
    e.finished_at,
    e.wake_at,
    e.deadline_at,
    e.waiting_for,
    e.reason,
    e.crashes,
    e.ending,
    p.input,
    p.output,
    p.error
FROM executions AS e
LEFT JOIN payloads AS p ON p.execution_id = e.id AND p.run = e.run
WHERE e.id = :id
