UPDATE executions
SET signal = signal + 1, wake_at = iif(status IN ('sleeping', 'listening'), :now, wake_at)
WHERE id = :id
