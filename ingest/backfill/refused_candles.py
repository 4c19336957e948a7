"""Candles in quarantine: they are there, but cannot be used."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final

import pyarrow as pa

from ingest.bars.from_candles import NONE_REFUSED
from storage.clock import NS, US_NS
from storage.lake.lake import Lake

_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def refused_candles(lake: Lake, venue: str, width: str, from_ns: int, to_ns: int) -> pa.Table:
    """Return `instrument` and `t_ns`, the open, of a venue's refused candles of a width that open in a time range."""
    found: dict[tuple[str, int], None] = {}
    for raw in lake.query("SELECT raw FROM quarantine WHERE table_name = 'candles'")["raw"].to_pylist():
        row = json.loads(raw or b"null")
        if not (isinstance(row, dict) and row.get("width") == width and isinstance(row.get("ts_open"), str)):
            continue
        age = datetime.fromisoformat(row["ts_open"]) - _EPOCH
        open_ns = (age.days * 86_400 + age.seconds) * NS + age.microseconds * US_NS
        if from_ns <= open_ns < to_ns and str(row.get("instrument")).startswith(f"{venue}|"):
            found[row["instrument"], open_ns] = None
    names, opens = zip(*found, strict=True) if found else ((), ())
    return pa.table([pa.array(names, pa.string()), pa.array(opens, pa.int64())], schema=NONE_REFUSED.schema)
