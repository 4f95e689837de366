"""Predictions: which files are a sample, and the tables of each."""
