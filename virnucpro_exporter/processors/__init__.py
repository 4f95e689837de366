"""What is done to a file."""
