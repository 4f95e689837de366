"""Worker processes: the pool protocol, the local pool, its workers."""
