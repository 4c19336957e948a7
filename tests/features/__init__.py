"""Laws of the features room."""
