"""Listings stored in the lake."""

from __future__ import annotations

from typing import Any, Final

from storage.lake.lake import Lake

_LISTINGS: Final = """
    SELECT * EXCLUDE (batch, ts_ingested_ns) FROM instruments WHERE ts_knowable_ns < ?
    QUALIFY row_number() OVER (PARTITION BY venue, kind, symbol, generation ORDER BY ts_knowable_ns DESC) = 1
    ORDER BY ts_knowable_ns, instrument
"""


def newest_listings(lake: Lake, before_ns: int) -> list[dict[str, Any]]:
    """Return the newest row of `instruments` of each contract that was known before an instant."""
    return lake.query(_LISTINGS, [before_ns]).to_pylist()
