"""Which source reads which kind of history, and from which archive?"""

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


def archived(kind: Kind, lake: Lake, settings: Settings, clock: TimeSource | None = None) -> BackfillSource:
    """Return what reads a kind of history; objects are kept below the home, in a folder of their archive's name.

    Args:
        kind: what is wished for.
        lake: knows which bars need no archive.
        settings: where the archives lie, and how patient to be with them.
        clock: says what is the future; the wall's by default.

    Raises:
        SettingsError: the archive's address is none.
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
