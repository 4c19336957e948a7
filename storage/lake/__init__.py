"""Versioned tables: commits, point-in-time reads, snapshots, maintenance and integrity checks."""
