-- What was never started has no deadline, and keeps its delay in wake_at.
UPDATE executions
SET
    status = 'paused',
    signal = signal + 1,
    wake_at = CASE WHEN started_at IS NULL THEN wake_at WHEN ending IS NULL THEN deadline_at END
WHERE id = :id
