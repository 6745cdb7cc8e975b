UPDATE steps INDEXED BY steps_open
SET wake_at = :now, flag = 'woken'
WHERE execution_id = :id
    AND run = :run
    AND finished_at IS NULL
    AND (status = 'retrying' OR status = 'sleeping' AND kind = 'sleep')
    AND wake_at > :now
    AND EXISTS (
        SELECT 1
        FROM json_each(:waits) AS wanted
        WHERE json_extract(wanted.value, '$[0]') = steps.path AND json_extract(wanted.value, '$[1]') = steps.attempt
    )
