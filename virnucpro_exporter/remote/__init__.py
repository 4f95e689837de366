"""The client of another run: its snapshots, rebuilt from its metrics endpoint."""
