"""How do sorted prints become bars: one pass, the same for live, replay and backfill.

The kernel is compiled (numba) and sums in the order it is given, so equal prints in equal order give equal bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from ingest.prints import Prints, sorted_columns

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


def fold(bar: Ints, price: Floats, size: Floats, side: NDArray[np.int8], *, bars: int) -> Folded:
    """Fold prints into bars.

    Args:
        bar: (m,) which bar each print belongs to, rising; within a bar in order of venue time, then of receipt.
        price: (m,) quote per base.
        size: (m,) base units.
        side: (m,) 1 bought, -1 sold, 0 unknown.
        bars: how many bars there are; one without a print stays empty.
    """
    prices = np.full((4, bars), np.nan)
    sums = np.zeros((3, bars))
    trades = np.zeros(bars, dtype=np.int64)
    known = np.ones(bars, dtype=np.bool_)
    _fold(bar, price, size, side, prices, sums, trades, known)
    return Folded(prices[0], prices[1], prices[2], prices[3], sums[0], sums[1], sums[2], trades, known)


def fold_groups(groups: Sequence[Prints]) -> Folded:
    """Fold groups of prints, one group a bar, each in any order."""
    bar, prints = sorted_columns(groups)
    columns = (np.ascontiguousarray(prints[name]) for name in ("price", "size", "side"))
    return fold(bar, *columns, bars=len(groups))


@numba.njit(cache=True)
def _fold(bar, price, size, side, prices, sums, trades, known):  # type: ignore[no-untyped-def]  # pragma: no cover
    for i in range(bar.size):
        b, p, s = bar[i], price[i], size[i]
        if trades[b] == 0:
            prices[0, b] = p
            prices[1, b] = p
            prices[2, b] = p
        else:
            prices[1, b] = max(prices[1, b], p)
            prices[2, b] = min(prices[2, b], p)
        prices[3, b] = p
        sums[0, b] += s
        if side[i] > 0:
            sums[1, b] += s
        elif side[i] == 0:
            known[b] = False
        sums[2, b] += p * s
        trades[b] += 1
