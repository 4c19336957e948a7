"""Candles of a capture, computed by plain Python that shares no code with tickwalk.

Reads lines `{"recv_ns": ..., "msg": {...}}`, counts each print once by (coin, time, tid), sums in decimals, and
writes a Parquet file that `tickwalk import candles` takes:

    python -m tests.drills.candles_of_capture CAPTURE.ndjson.gz CANDLES.parquet
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

WIDTH_MS = 60_000


def lines_of(path: Path, most: int | None = None) -> list[str]:
    """Return the lines of a capture, plain or gzipped; at most so many."""
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as packed:
            return list(islice(packed, most))
    with path.open(encoding="utf-8") as plain:
        return list(islice(plain, most))


def prints_of(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return every print once, in order of venue time; those of one instant in order of receipt."""
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    for line in lines:
        message = json.loads(line)["msg"]
        if message.get("channel") == "trades":
            for item in message["data"]:
                found.setdefault((item["coin"], item["time"], item["tid"]), item)
    return sorted(found.values(), key=lambda item: item["time"])


def candles_of(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return one candle per coin and minute from a coin's first print to the newest of all; a silent one is flat."""
    by_minute: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for item in prints_of(lines):
        by_minute.setdefault((item["coin"], item["time"] // WIDTH_MS * WIDTH_MS), []).append(item)
    newest = max(minute for _, minute in by_minute)
    candles = []
    for coin in sorted({coin for coin, _ in by_minute}):
        last = Decimal(0)
        for minute in range(min(at for name, at in by_minute if name == coin), newest + WIDTH_MS, WIDTH_MS):
            items = by_minute.get((coin, minute), [])
            prices = [Decimal(item["px"]) for item in items] or [last]
            last = prices[-1]
            candles.append(
                {
                    "coin": coin,
                    "t": minute,
                    "open": float(prices[0]),
                    "high": float(max(prices)),
                    "low": float(min(prices)),
                    "close": float(last),
                    "volume": float(sum((Decimal(item["sz"]) for item in items), Decimal(0))),
                    "trades": len(items),
                }
            )
    return candles


def write_candles(candles: list[dict[str, Any]], path: Path) -> Path:
    """Write candles as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(candles), path)
    return path


if __name__ == "__main__":
    write_candles(candles_of(lines_of(Path(sys.argv[1]))), Path(sys.argv[2]))
