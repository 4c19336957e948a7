"""Ingestion: venues, feed, journal, pipeline, coverage, bars, backfill and replay."""
