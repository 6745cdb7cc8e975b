-- Since when the newest ones with a tag are, so many; nothing if there are not so many.
SELECT created_at
FROM tags
WHERE tag = :tag AND (created_at, execution_id) < (:created_at, :id) AND created_at >= :since
ORDER BY created_at DESC, execution_id DESC
LIMIT 1 OFFSET :most
