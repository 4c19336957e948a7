"""Backfills from the venue's S3 archives."""
