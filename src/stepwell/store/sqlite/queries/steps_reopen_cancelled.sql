-- A step that was cancelled because the attempt of its parent failed runs again in the parent's next attempt.
UPDATE steps
SET status = 'running', finished_at = NULL
WHERE execution_id = :id
    AND run = :run
    AND path > :path || '/'
    AND path < :path || '0'
    AND status = 'cancelled'
