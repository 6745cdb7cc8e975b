SELECT COUNT(*)
FROM (
    SELECT 1
    FROM tags
    WHERE
        tag = :tag
        AND (created_at, execution_id) < (:created_at, :id) AND created_at >= :since
    LIMIT :most
)
