"""Functional core: events in, commands and facts out."""
