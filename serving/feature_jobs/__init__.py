"""Jobs behind the feature commands."""
