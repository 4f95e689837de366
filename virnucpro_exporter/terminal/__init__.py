"""Terminal: the live table, and log lines where there is none."""
