UPDATE events
SET received_at = :now, received_run = :run, received_by = :path
WHERE number = :number
