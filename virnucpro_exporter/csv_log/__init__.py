"""The persistent metrics log: CSV, written and read back."""
