"""Backfills from the venue's archives: objects in its layouts on a real S3 server."""
