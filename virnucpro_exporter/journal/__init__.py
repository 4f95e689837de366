"""The journal: what became of every file, so that a killed run resumes where it ended."""
