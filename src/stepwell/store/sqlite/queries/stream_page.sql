SELECT s."offset", s.value, s.take
FROM streams AS s
WHERE s.execution_id = :id AND s.stream = :stream AND s."offset" > :after
ORDER BY s."offset"
