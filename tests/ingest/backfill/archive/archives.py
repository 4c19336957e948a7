"""Archive objects in the venue's layouts, for tests, made of real trades and books where available."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from ingest.backfill.archive.object_cache import ObjectCache
from ingest.backfill.archive.object_store import open_store
from ingest.backfill.source import BackfillRequest, BackfillSource
from storage.clock import MS_NS, parse_time_ns
from storage.lake.lake import Lake
from storage.settings.services import ArchiveSettings
from tests.ingest.recorder.faults.test_archive_fills import a_block, a_fill
from tests.storage.rows import UNSTAMPED

HOUR = parse_time_ns("2025-07-29T14:00:00Z")
HOUR_MS = HOUR // MS_NS
LATER = parse_time_ns("2025-12-01")
LIMITS = ArchiveSettings(tries=4, backoff_s=0.01, timeout_s=5.0)


def packed(lines: Iterable[bytes]) -> bytes:
    """Return lines as an LZ4 frame."""
    return bytes(pa.compress(b"".join(line + b"\n" for line in lines), codec="lz4", asbytes=True))


def iso_ns(ms: int) -> str:
    """Return a time as the node writes it: nanoseconds, and no zone."""
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}000001"


def both(
    tid: int, at_ms: int, *, coin: str = "BTC", price: str = "100.0", is_buy: bool = True
) -> list[dict[str, Any]]:
    """Return the two fills of a trade; the side that crossed is the aggressor's."""
    same = {"coin": coin, "px": price, "sz": "0.5", "time": at_ms, "tid": tid}
    return [
        a_fill(**same, side="B", crossed=is_buy, oid=2 * tid),
        a_fill(**same, side="A", crossed=not is_buy, oid=2 * tid + 1),
    ]


def pulse(from_ms: int, to_ms: int, step_ms: int = 20_000) -> list[bytes]:
    """Return blocks of another coin that prove that the node was writing."""
    return [a_block(*both(10_000_000 + at, at, coin="PULSE")) for at in range(from_ms, to_ms, step_ms)]


def in_order(lines: Sequence[bytes]) -> list[bytes]:
    """Return blocks by the time of their first fill."""
    return sorted(lines, key=lambda line: json.loads(line)["events"][0][1]["time"])


def objects_at(where: str, home: Path, limits: ArchiveSettings = LIMITS) -> ObjectCache:
    """Return objects kept in a home."""
    return ObjectCache(open_store(where, limits), home / "archive")


async def fill_in(source: BackfillSource, request: BackfillRequest, lake: Lake) -> dict[str, str]:
    """Fetch and commit the remaining steps as the driver does; return the reasons of absent ones, by step."""
    absent = {}
    for step in await source.steps(request):
        if lake.query("SELECT 1 FROM batches WHERE batch_id = ?", (step.key,)).num_rows:
            continue
        taken = await source.fetch(step)
        if taken.absent:
            absent[step.key] = taken.absent
        else:
            lake.commit(taken.tables, batch_id=step.key, inputs=taken.inputs)
    return absent


def rows(lake: Lake, table: str, where: str = "true") -> list[dict[str, Any]]:
    """Return a table's rows without the lake's stamps, in the order of their key columns."""
    query = f"SELECT {UNSTAMPED} FROM {table} WHERE {where} ORDER BY ALL"
    return lake.query(query).to_pylist()
