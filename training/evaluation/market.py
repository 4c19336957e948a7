"""Listing and settlement: when an instrument can be traded, and at what price a delisted position settles.

An instrument is listed from its first bar with evidence (any status but `unknown` and `unlisted`) up to an `unlisted`
bar, which its delisting makes, and again from its next bar with evidence. Nothing here looks ahead, so an instrument
that lists later changes nothing before. A recycled name is another instrument, with a listing of its own.

A position in a delisted instrument settles at the average of the oracle price over the hour before; all open orders are
cancelled (Hyperliquid's page on delisting, read 2026-12-01: "settle to the 1 hour time weighted spot oracle price"; it
names no charge, and fills of settlements carry a fee of 0). Candles have no oracle price; there the average is that of
the bars' own prices.

Axes: S instruments, T steps.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from storage.clock import HOUR_NS
from storage.contracts.tables import STATUSES

_UNLISTED: Final = STATUSES.index("unlisted")
_NO_EVIDENCE: Final = [_UNLISTED, STATUSES.index("unknown")]


def listed_steps(status: np.ndarray) -> np.ndarray:
    """Return whether each instrument is listed at each step, as known then.

    Args:
        status: (S, T) uint8, index into `STATUSES`.

    Returns:
        (S, T) bool.
    """
    is_unlisted = status == _UNLISTED
    is_event = is_unlisted | ~np.isin(status, _NO_EVIDENCE)
    newest = np.maximum.accumulate(np.where(is_event, np.arange(status.shape[1]), -1), axis=1)
    began_or_ended = np.take_along_axis(is_unlisted, np.maximum(newest, 0), axis=1)
    listed: np.ndarray = (newest >= 0) & ~began_or_ended
    return listed


def settlement_prices(
    is_listed: np.ndarray, price: np.ndarray, oracle: np.ndarray, *, width_ns: int
) -> np.ndarray:
    """Return the price at which positions settle in the first step without a listing; NaN at all other steps.

    Args:
        is_listed: (S, T) bool.
        price: (S, T) float64, NaN where there is none; its average counts where the hour has no oracle price, and
            its last value where the hour has neither.
        oracle: (S, T) float64, the oracle price at each close, NaN where unknown.
        width_ns: of a bar.

    Returns:
        (S, T) float64, units of the price.
    """
    found = np.full(price.shape, np.nan)
    bars = max(1, HOUR_NS // width_ns)
    for i, step in zip(*np.nonzero(is_listed[:, :-1] & ~is_listed[:, 1:]), strict=True):
        hour = slice(max(0, step + 1 - bars), step + 1)
        earlier = price[i, : step + 1]
        for candidates in (oracle[i, hour], price[i, hour], earlier[np.isfinite(earlier)][-1:]):
            known = candidates[np.isfinite(candidates)]
            if known.size:
                found[i, step + 1] = known.mean()
                break
    return found
