"""What the venue's archives hold of the time that nobody listened."""
