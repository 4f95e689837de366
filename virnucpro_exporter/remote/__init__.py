"""Client of another run: rebuilds its snapshots from a scrape."""
