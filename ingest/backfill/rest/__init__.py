"""Backfills over REST."""
