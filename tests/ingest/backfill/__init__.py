"""Backfills: sources, the driver, and their rows in the tables."""
