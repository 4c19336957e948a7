"""Imports of the server of forked processes, and the loops that numba has compiled."""

from ingest.pipeline import dedupe
from ingest.venues.hyperliquid import scanner
from serving.cli import record
from tests.drills import backfill_kills, command, lake_process, recorder_process, venue_process

__all__ = ["backfill_kills", "command", "lake_process", "record", "recorder_process", "venue_process"]

scanner.warm_up()
dedupe.warm_up()
