UPDATE executions
SET
    status = 'queued',
    owner = NULL,
    epoch = epoch + 1,
    run = run + 1,
    generation = generation + :generations,
    wake_at = :now,
    waiting_for = NULL,
    deadline_at = NULL,
    crashes = 0,
    crashed = 0,
    ending = NULL,
    orphaning = 0,
    signal = signal + 1,
    reason = NULL,
    started_at = NULL,
    finished_at = NULL
WHERE id = :id
