"""Aggregation of sorted prints into bars: open, high, low, close, volume, VWAP and counts.

One pass, the same for live, replay and backfill. The kernel is compiled (numba) and sums in the order of its input, so
equal prints in equal order give equal bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.bars.trade_buffer import TradeBuffer, sorted_columns
from storage.jit import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Folded:
    """Columns of `n` bars; prices are NaN where nothing printed.

    All arrays are (n,): float64, and `trades` int64. `buy_volume` counts prints whose aggressor bought;
    `is_side_known` is false where any print's aggressor is unknown.
    """

    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    buy_volume: Floats
    notional: Floats
    trades: Ints
    is_side_known: NDArray[np.bool_]


def bar_of(ts_ns: Ints, width_ns: int) -> Ints:
    """Return the grid step of each time, counted from 1970; fast where neighbours share a step.

    Args:
        ts_ns: (m,) nanoseconds since 1970, not before it.
        width_ns: of a bar.
    """
    bars = np.empty(ts_ns.size, np.int64)
    _bar_of(ts_ns, width_ns, bars)
    return bars


def fold(bar: Ints, price: Floats, size: Floats, side: NDArray[np.int8], *, bars: int) -> Folded:
    """Fold prints into bars.

    Args:
        bar: (m,) index of each print's bar, rising; within a bar in order of venue time, then of receipt.
        price: (m,) quote per base.
        size: (m,) base units.
        side: (m,) 1 bought, -1 sold, 0 unknown.
        bars: number of bars; one without a print stays empty.
    """
    prices, sums = np.empty((4, bars)), np.empty((3, bars))
    trades, known = np.empty(bars, dtype=np.int64), np.empty(bars, dtype=np.bool_)
    _fold(bar, price, size, side, prices, sums, trades, known)
    return Folded(prices[0], prices[1], prices[2], prices[3], sums[0], sums[1], sums[2], trades, known)


def fold_groups(groups: Sequence[TradeBuffer]) -> Folded:
    """Fold groups of prints, one group a bar, each in any order."""
    bar, prints = sorted_columns(groups)
    columns = (np.ascontiguousarray(prints[name]) for name in ("price", "size", "side"))
    return fold(bar, *columns, bars=len(groups))


@compiled()
def _bar_of(ts_ns, width_ns, bars):  # type: ignore[no-untyped-def]  # pragma: no cover
    step, opened = np.int64(0), np.int64(0)
    for i in range(ts_ns.size):
        since = ts_ns[i] - opened
        if since < 0 or since >= width_ns:  # the division costs more than the rest of the loop
            step = ts_ns[i] // width_ns
            opened = step * width_ns
        bars[i] = step


@compiled()
def _leave_empty(start, stop, prices, sums, trades, known):  # type: ignore[no-untyped-def]  # pragma: no cover
    for b in range(start, stop):
        prices[0, b] = prices[1, b] = prices[2, b] = prices[3, b] = np.nan
        sums[0, b] = sums[1, b] = sums[2, b] = 0.0
        trades[b], known[b] = 0, True


@compiled()
def _fold(bar, price, size, side, prices, sums, trades, known):  # type: ignore[no-untyped-def]  # pragma: no cover
    i = 0
    done = np.int64(0)
    while i < bar.size:
        # A bar's figures stay in registers until the next bar begins; prints of one bar lie together.
        b = bar[i]
        first = high = low = last = price[i]
        volume = bought = notional = 0.0
        is_known = True
        start = i
        while i < bar.size and bar[i] == b:
            last, amount = price[i], size[i]
            high = max(high, last)
            low = min(low, last)
            volume += amount
            notional += last * amount
            # Selected, not branched on: whether the aggressor bought is as good as random, and 0.0 changes no sum.
            bought += amount if side[i] > 0 else 0.0
            is_known &= side[i] != 0
            i += 1
        prices[0, b], prices[1, b], prices[2, b], prices[3, b] = first, high, low, last
        sums[0, b], sums[1, b], sums[2, b] = volume, bought, notional
        trades[b], known[b] = i - start, is_known
        _leave_empty(done, b, prices, sums, trades, known)
        done = b + 1
    _leave_empty(done, trades.size, prices, sums, trades, known)
