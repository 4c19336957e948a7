"""One test for each fault that a venue, a network or an archive is known for (docs/faults.md)."""
