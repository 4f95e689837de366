"""Input files, their cost, the output folder and its lock."""
