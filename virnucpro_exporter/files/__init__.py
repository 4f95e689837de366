"""Input files, how much work they are, the output folder and its lock."""
