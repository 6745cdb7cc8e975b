SELECT COUNT(*)
FROM (
    SELECT 1
    FROM executions INDEXED BY executions_status
    WHERE
        status = :status
        AND (created_at, id) < (:created_at, :id) AND created_at >= :since
    LIMIT :most
)
