"""Run sequence files across GPUs with work stealing, and show what every GPU really does."""

__version__ = "0.1.0"
