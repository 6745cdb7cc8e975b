-- A pause stands, whatever the owner has been told of it. When something was signalled that the owner had not seen when it
-- decided to leave (a wake, a pause and its end), the execution is claimable at once. A scalar MIN with a NULL is NULL: no
-- wake_at means the deadline, no deadline means wake_at. What only cleans up has no deadline.
UPDATE executions
SET
    status = CASE
        WHEN status = 'paused' THEN status
        WHEN signal <> :signal THEN 'queued'
        ELSE :status
    END,
    owner = NULL,
    wake_at = CASE
        WHEN status = 'paused' THEN iif(ending IS NULL, deadline_at, NULL)
        WHEN signal <> :signal THEN created_at
        WHEN ending IS NOT NULL THEN :wake_at
        ELSE COALESCE(MIN(:wake_at, deadline_at), :wake_at, deadline_at)
    END,
    waiting_for = :waiting_for
WHERE id = :id AND owner = :owner AND epoch = :epoch
