"""Journal: the fate of every file, for resume, status and reports."""
