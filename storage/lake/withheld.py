"""Market data that is hidden from a reader: all rows of some ranges of time.

A row is hidden if the time that it speaks of touches a range: an instant lies in it, or an interval overlaps it. When
the row became known does not matter. Tables without market data (reference data, ledgers, coverage) stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

TimeRange = tuple[int, int]
"""Start, inclusive, and end, exclusive, in nanoseconds."""

_EVENT: Final = "epoch_us(ts_event) * 1000"
_OPEN: Final = "epoch_us(ts_open) * 1000"
_UNITS_NS: Final = (
    "CASE width[-1] WHEN 's' THEN 1 WHEN 'm' THEN 60 WHEN 'h' THEN 3600 ELSE 86400 END * 1000000000"
)
SPANS: Final[dict[str, tuple[str, str]]] = {
    "trades": (_EVENT, _EVENT),
    "quotes": (_EVENT, _EVENT),
    "books": (_EVENT, _EVENT),
    "mids": ("ts_recv_ns", "ts_recv_ns"),
    "contexts": ("ts_recv_ns", "ts_recv_ns"),
    "lags": ("epoch_us(ts_from) * 1000", "epoch_us(ts_from) * 1000 + 59999999999"),
    "bars": (_OPEN, "epoch_us(ts_close) * 1000 - 1"),
    "candles": (_OPEN, f"{_OPEN} + CAST(width[:-2] AS BIGINT) * {_UNITS_NS} - 1"),
    "funding": (_EVENT, _EVENT),
}
"""First and last nanosecond that a row of a table speaks of, as SQL."""


def outside(table: str, ranges: Sequence[TimeRange]) -> str:
    """Return the condition that a row of a table lies outside of all ranges; empty where all rows do.

    >>> outside("mids", [(10, 20)])
    'NOT (ts_recv_ns < 20 AND ts_recv_ns >= 10)'
    """
    if table not in SPANS:
        return ""
    first, last = SPANS[table]
    return " AND ".join(
        f"NOT ({first} < {int(stop)} AND {last} >= {int(start)})" for start, stop in sorted(ranges)
    )
