"""Bars without a print, kept small: what is put comes back, and old ones go."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ingest.bars.bar_columns import MARKET_COLUMNS, TRADE_COLUMNS
from ingest.bars.silent_bars import SilentBars
from storage.clock import NS, US_NS

MINUTE_NS = 60 * NS


def silent_row(minute: int, revision: int) -> dict[str, Any]:
    sums = dict.fromkeys(("volume", "buy_volume", "notional"), 0.0) | {"trades": 0}
    open_ns = minute * MINUTE_NS
    return {
        "instrument": "hyperliquid|perp|BTC",
        "width": "1m",
        "ts_open": open_ns // US_NS,
        "ts_close": (open_ns + MINUTE_NS) // US_NS,
        "session": "always",
        "origin": "live",
        "trades_applicable": True,
        "status": "quiet",
        "cause": "",
        "observed_ms": 60_000,
        "repaired": False,
        "certified": False,
        "revision": revision,
        "ts_knowable_ns": open_ns + revision,
        **dict.fromkeys(TRADE_COLUMNS),
        **sums,
        **dict.fromkeys(MARKET_COLUMNS),
    }


@given(st.lists(st.tuples(st.sampled_from(("put", "pop", "before")), st.integers(0, 12)), max_size=40))
def test_they_are_a_dictionary_from_which_old_bars_are_dropped(steps: list[tuple[str, int]]) -> None:
    """In any order: a bar that was taken out for a revision is put back behind newer ones."""
    bars = SilentBars("hyperliquid|perp|BTC", "1m", MINUTE_NS)
    expected: dict[int, dict[str, Any]] = {}
    for revision, (step, minute) in enumerate(steps):
        open_ns = minute * MINUTE_NS
        if step == "put":
            expected[open_ns] = silent_row(minute, revision)
            bars.put(open_ns, expected[open_ns])
        elif step == "pop" and open_ns in expected:
            row, put = bars.pop(open_ns), expected.pop(open_ns)
            assert {name: row[name] for name in put} == put
        elif step == "before":
            bars.discard_before(open_ns)
            expected = {at: row for at, row in expected.items() if at >= open_ns}
        assert sorted(bars.opens()) == sorted(expected)
        assert all(bars.row(at)["revision"] == row["revision"] for at, row in expected.items())
