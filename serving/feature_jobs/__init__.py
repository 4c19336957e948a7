"""Jobs of the `tickwalk features` commands."""
