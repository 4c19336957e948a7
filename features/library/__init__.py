"""The features, one family per file."""
