"""What each GPU really does."""
