"""Everything Dask: workers on many machines, and the GPUs of their nodes."""
