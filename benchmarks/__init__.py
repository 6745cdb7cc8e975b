"""How fast stepwell is, measured against the least that any engine with the same guarantees would have to do."""
