"""What is stored, when it is stamped, and where it lies."""
