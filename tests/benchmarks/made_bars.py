"""Synthetic bars for benchmarks, with every column of the contract filled.

Prices walk on a grid of ticks, sizes have three decimals, a tenth of the minutes is quiet. Rows come as a stream,
instrument by instrument, so that any number of them needs the memory of one piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa

from storage.clock import NS, US_NS
from storage.contracts.contract import TS
from storage.contracts.tables import BARS

MIN_NS: Final = 60 * NS
MONTH: Final = 43_200
"""Minutes of thirty days."""
FIRST_MIN: Final = 1_750_000_000 * NS // MIN_NS
_QUIET: Final = 0.1


def instrument(number: int) -> str:
    """Return the id of one of the made instruments; ids rise with their numbers."""
    return f"hyperliquid|perp|C{number:04d}"


def made_bars(rows: int, *, minutes: int = MONTH, first: int = 0) -> Iterator[pa.Table]:
    """Yield bars of one instrument after the other, a table each.

    Args:
        rows: of all tables.
        minutes: of each instrument, at most.
        first: number of the first instrument.
    """
    number = first
    while rows > 0:
        count = min(rows, minutes)
        yield _bars_of(number, count)
        rows, number = rows - count, number + 1


def _bars_of(number: int, count: int) -> pa.Table:
    random = np.random.default_rng(number)
    minute = FIRST_MIN + np.arange(count)
    is_quiet = random.random(count) < _QUIET
    magnitude = int(random.integers(0, 5))
    middle = 10_000 + np.maximum(np.cumsum(random.integers(-3, 4, count)), -5_000)

    def price(ticks: Any) -> Any:
        return np.round(ticks * 10.0 ** (magnitude - 4), 4 - magnitude)

    def ticks(low: int, high: int) -> Any:
        return random.integers(low, high, count)

    def ratio(scale: float) -> Any:
        return np.round(random.exponential(scale, count) + 0.001, 3)

    first, last = middle + ticks(-2, 3), middle + ticks(-2, 3)
    most, least = np.maximum(first, last) + ticks(0, 4), np.minimum(first, last) - ticks(0, 4)
    volume = ratio(40.0)
    prices = {"open": first, "high": most, "low": least, "close": last}
    printed = {name: price(values) for name, values in prices.items()}
    printed["vwap"] = (printed["high"] + printed["low"] + printed["close"]) / 3
    always: dict[str, Any] = {
        "volume": np.where(is_quiet, 0.0, volume),
        "buy_volume": np.where(is_quiet, 0.0, np.round(volume * random.random(count), 3)),
        "trades": np.where(is_quiet, 0, random.poisson(30, count) + 1),
        "bid": price(middle - 1),
        "ask": price(middle + 1),
        "bid_size": ratio(5.0),
        "ask_size": ratio(5.0),
        "quote_age_ms": random.integers(0, 900, count),
        "funding_rate": np.round(random.normal(1e-5, 1e-6, count), 9),
        "open_interest": np.round(1e6 + np.cumsum(random.normal(0, 50, count)), 1),
        "oracle": price(middle + ticks(-1, 2)),
        "mark": price(middle + ticks(-1, 2)),
        "context_age_ms": random.integers(0, 3_000, count),
        "ts_open": minute * MIN_NS // US_NS,
        "ts_close": (minute + 1) * MIN_NS // US_NS,
        "ts_knowable_ns": (minute + 1) * MIN_NS + random.integers(NS, 2 * NS, count),
        "status": np.where(is_quiet, "quiet", "printed"),
        "observed_ms": np.full(count, 60_000),
        "revision": np.zeros(count, np.int32),
        "certified": random.random(count) < 0.9,
    }
    always["notional"] = np.where(is_quiet, 0.0, volume * printed["vwap"])
    same: dict[str, Any] = {
        "instrument": instrument(number),
        "width": "1m",
        "cause": "",
        "session": "always",
        "origin": "live",
        "repaired": False,
        "trades_applicable": True,
    }
    columns = {name: pa.array(values, mask=is_quiet) for name, values in printed.items()}
    columns |= {name: pa.array(values) for name, values in always.items()}
    columns |= {name: pa.repeat(pa.scalar(value), count) for name, value in same.items()}
    columns["ts_available_ns"] = columns["ts_knowable_ns"]
    times = {name: columns[name].cast(TS) for name in ("ts_open", "ts_close")}
    return pa.Table.from_arrays(
        [(columns | times)[item.name].cast(item.type) for item in BARS.schema], schema=BARS.schema
    )
