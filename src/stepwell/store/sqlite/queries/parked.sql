-- A scalar MIN with a NULL is NULL: no wake_at means the deadline, no deadline means wake_at. To one that only cleans up the
-- deadline does not matter any more: long over, it would make the execution claimable all the time.
UPDATE executions
SET
    status = ?,
    owner = NULL,
    wake_at = COALESCE(
        MIN(?, CASE WHEN ending IS NULL THEN deadline_at END), ?, CASE WHEN ending IS NULL THEN deadline_at END
    ),
    waiting_for = ?
WHERE id = ? AND owner = ? AND epoch = ?
