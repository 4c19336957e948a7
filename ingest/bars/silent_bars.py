"""Published bars of one instrument in which nothing printed, kept small until they can no longer change.

The silence of a stream may be doubted hours after a bar of it was published. Such bars differ only in their quote,
their context and what is known of their coverage, so a bar takes about 300 bytes instead of 1,500.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Mapping
from typing import Any, Final

from ingest.bars.bar_columns import MARKET_COLUMNS, TRADE_COLUMNS
from ingest.instruments.trading_calendar import session_at
from storage.clock import US_NS

_PACKED: Final = struct.Struct(f"<{len(MARKET_COLUMNS)}d")
_KEPT: Final = ("status", "cause", "observed_ms", "repaired", "certified", "revision", "ts_knowable_ns")
_AGES: Final = frozenset({"quote_age_ms", "context_age_ms"})
_STATED: Final = frozenset(
    {"instrument", "width", "ts_open", "ts_close", "session", "origin", "trades_applicable"}
)
_EMPTY: Final = dict.fromkeys(TRADE_COLUMNS) | {
    "volume": 0.0,
    "buy_volume": 0.0,
    "notional": 0.0,
    "trades": 0,
}


class SilentBars:
    """Bars without a print of one instrument and width, by their open in ns."""

    def __init__(self, instrument: str, width: str, width_ns: int) -> None:
        self._instrument = instrument
        self._width = width
        self._width_ns = width_ns
        self._bars: dict[int, tuple[Any, ...]] = {}
        self._oldest: list[int] = []
        """A heap of the opens, and of some that are gone: a day has 86,400 bars of a second, too many to look through
        at each tick."""

    def __contains__(self, open_ns: int) -> bool:
        return open_ns in self._bars

    def opens(self) -> list[int]:
        """Return the opens of the bars."""
        return list(self._bars)

    def put(self, open_ns: int, row: Mapping[str, Any]) -> None:
        """Keep the newest revision of a bar; see `is_silent`."""
        market = (float("nan") if row[name] is None else row[name] for name in MARKET_COLUMNS)
        known = (*_KEPT, *MARKET_COLUMNS, *TRADE_COLUMNS)
        more = {name: value for name, value in row.items() if name not in _STATED and name not in known}
        if open_ns not in self._bars:
            heapq.heappush(self._oldest, open_ns)
        self._bars[open_ns] = (*(row[name] for name in _KEPT), more or None, _PACKED.pack(*market))

    def pop(self, open_ns: int) -> dict[str, Any]:
        """Return the row of a bar, and keep it no longer."""
        row = self.row(open_ns)
        del self._bars[open_ns]
        return row

    def row(self, open_ns: int) -> dict[str, Any]:
        """Return the row of a bar."""
        kept = self._bars[open_ns]
        market = zip(MARKET_COLUMNS, _PACKED.unpack(kept[-1]), strict=True)
        return {
            "instrument": self._instrument,
            "width": self._width,
            "ts_open": open_ns // US_NS,
            "ts_close": (open_ns + self._width_ns) // US_NS,
            "session": session_at(self._instrument, open_ns),
            "origin": "live",
            "trades_applicable": True,
            **dict(zip(_KEPT, kept[:-2], strict=True)),
            **_EMPTY,
            **(kept[-2] or {}),
            **{name: _value(name, value) for name, value in market},
        }

    def status(self, open_ns: int) -> str:
        """Return the status of a bar."""
        return str(self._bars[open_ns][_KEPT.index("status")])

    def discard_before(self, limit_ns: int) -> None:
        """Keep the bars that open before an instant no longer."""
        while self._oldest and self._oldest[0] < limit_ns:
            self._bars.pop(heapq.heappop(self._oldest), None)


def is_silent(row: Mapping[str, Any]) -> bool:
    """Return whether a recorder's bar of a venue with trades has no print."""
    return bool(row["trades_applicable"]) and row["trades"] == 0 and row["origin"] == "live"


def _value(name: str, value: float) -> float | int | None:
    if value != value:
        return None
    return int(value) if name in _AGES else value
