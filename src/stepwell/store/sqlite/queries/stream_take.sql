SELECT s.value
FROM streams AS s
WHERE
    s.execution_id = :id AND s.run = :run AND s.path = :path AND s.stream = :stream AND s.take = :take
    AND s.n >= :start
ORDER BY s.n
