"""Dask: agents on many machines, and the GPUs of their nodes."""
