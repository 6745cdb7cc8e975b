-- The open sleeps and backoffs; not the deadlines around other steps.
SELECT path, attempt
FROM steps INDEXED BY steps_open
WHERE execution_id = :id
    AND run = :run
    AND finished_at IS NULL
    AND (status = 'retrying' OR status = 'sleeping' AND kind = 'sleep')
ORDER BY path
