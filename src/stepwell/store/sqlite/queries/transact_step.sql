-- One row if this worker lives and owns the execution at this epoch; with the step's end, if that is recorded already.
SELECT s.status, s.output, s.error
FROM workers AS w
CROSS JOIN executions AS e ON e.id = :id AND e.owner = w.id AND e.epoch = :epoch
LEFT JOIN steps AS s
    ON s.execution_id = e.id AND s.run = :run AND s.path = :path AND s.finished_at IS NOT NULL
WHERE w.id = :worker_id
