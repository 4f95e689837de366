"""Processes, files and the journal: how attempts are carried out."""
