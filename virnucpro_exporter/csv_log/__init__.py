"""Metrics log: CSV with one row per GPU, written and read back."""
