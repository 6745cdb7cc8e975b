SELECT EXISTS (SELECT 1 FROM executions INDEXED BY executions_orphaning WHERE orphaning = 1)
