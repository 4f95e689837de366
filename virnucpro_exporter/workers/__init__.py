"""Worker processes: the protocol of a pool, the pool of this machine, and what runs in a worker."""
