"""The commands of `tickwalk`, one module a room that they open."""
