"""The versioned tables: commits, point-in-time reads, snapshots, maintenance, integrity."""
