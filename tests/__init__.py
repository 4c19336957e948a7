"""Laws and drills of every room."""
