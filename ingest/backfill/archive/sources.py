"""Archive sources by kind of history."""

from __future__ import annotations

from typing import Literal

from ingest.backfill.archive.books import ArchiveBookSource
from ingest.backfill.archive.contexts import ArchiveContextSource
from ingest.backfill.archive.object_cache import ObjectCache
from ingest.backfill.archive.object_store import open_store
from ingest.backfill.archive.trades import ArchiveTradeSource
from ingest.backfill.source import BackfillSource
from storage.clock import TimeSource, WallTime
from storage.lake.lake import Lake
from storage.settings import Settings

Kind = Literal["trades", "books", "contexts"]


def archive_source(
    kind: Kind, lake: Lake, settings: Settings, clock: TimeSource | None = None
) -> BackfillSource:
    """Return the source of a kind of history; objects are kept below the home, in a folder per archive.

    Args:
        kind: of history.
        lake: for existing bars.
        settings: addresses of the archives, timeouts and retries.
        clock: bounds the range (default: wall clock).

    Raises:
        SettingsError: the address of the archive is invalid.
    """
    archive = settings.archive
    store = open_store(archive.node_data if kind == "trades" else archive.market_data, archive)
    folder = settings.archive_dir / store.where.partition("://")[2]
    objects = ObjectCache(store, folder, retry_s=archive.retry_h * 3_600.0)
    clock = clock or WallTime()
    if kind == "trades":
        return ArchiveTradeSource(objects, settings, clock, query=lake.query)
    if kind == "books":
        return ArchiveBookSource(objects, settings, clock)
    return ArchiveContextSource(objects, settings, clock)
