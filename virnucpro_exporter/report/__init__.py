"""After a run: who did what, as text and as a page with pictures."""
