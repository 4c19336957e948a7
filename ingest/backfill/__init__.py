"""Backfills of history from REST, archives and candle files."""
