SELECT EXISTS (SELECT 1 FROM workers WHERE lease_until > :uptime AND id NOT IN (SELECT value FROM json_each(:own)))
