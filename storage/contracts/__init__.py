"""Table contracts: columns, units, keys and the checks every batch must pass."""
