"""The live terminal dashboard and the persistent log."""
