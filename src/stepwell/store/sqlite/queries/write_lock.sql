-- Takes the write lock and changes nothing. A transaction that reads first cannot write once somebody else has committed.
DELETE FROM tags WHERE execution_id = ''
