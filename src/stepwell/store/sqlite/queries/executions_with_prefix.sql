SELECT COUNT(*)
FROM (SELECT 1 FROM executions WHERE id >= :first_id AND id < :last_id LIMIT :limit)
