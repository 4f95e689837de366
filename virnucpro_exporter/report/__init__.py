"""Report: who did what in a run, as text and as a page."""
