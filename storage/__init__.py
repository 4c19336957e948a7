"""Storage: the versioned tables, their contracts, settings, clocks and helpers that all packages share."""
