INSERT INTO events (execution_id, name, id, payload, sent_at)
VALUES (:execution_id, :name, :id, :payload, :sent_at)
