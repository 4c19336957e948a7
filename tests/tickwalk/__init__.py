"""Laws of the public Python interface."""
