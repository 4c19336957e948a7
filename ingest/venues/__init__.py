"""The venues: how each one speaks, and a simulated one that speaks like Hyperliquid."""
