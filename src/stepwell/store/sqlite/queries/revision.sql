-- Every transition changes one of these: a new row, an end, an attempt, a status, a deadline, a flag.
SELECT
    e.status,
    e.epoch,
    e.run,
    e.owner,
    e.wake_at,
    e.crashes,
    e.crashed,
    e.ending,
    COUNT(s.path),
    COUNT(s.finished_at),
    TOTAL(s.attempt),
    TOTAL(s.status = 'running'),
    TOTAL(s.status = 'retrying'),
    MAX(s.finished_at),
    TOTAL(s.wake_at),
    COUNT(s.flag)
FROM executions AS e
LEFT JOIN steps AS s ON s.execution_id = e.id AND s.run = e.run
WHERE e.id = :id
GROUP BY e.id
