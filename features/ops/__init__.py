"""Rolling and cross-sectional primitives in torch."""
