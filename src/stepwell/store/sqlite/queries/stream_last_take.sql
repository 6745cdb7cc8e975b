-- Takes go on counting over runs. An execution has few runs, so this is a few looks into the index.
SELECT MAX((
    SELECT MAX(s.take)
    FROM streams AS s
    WHERE s.execution_id = p.execution_id AND s.run = p.run AND s.path = :path AND s.stream = :stream
))
FROM payloads AS p
WHERE p.execution_id = :id
