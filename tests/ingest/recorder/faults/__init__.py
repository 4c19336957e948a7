"""Faults of venues, networks and archives: one test each (docs/faults.md)."""
