"""Funding charged to positions held across a payment, and the hour that a payment belongs to."""

from __future__ import annotations

from typing import Final

import numpy as np

from storage.clock import HOUR_NS, NS

_MINUTE_NS: Final = 60 * NS
_LATEST_NS: Final = 24 * _MINUTE_NS
"""Longest recorded delay of a payment's stamp behind its hour (docs/backfill.md)."""


def due_times(stamped_ns: np.ndarray) -> np.ndarray:
    """Return when payments were due, from the venue's stamps.

    Stamps are rounded to the minute, since they jitter by milliseconds to either side, and then belong to the hour that
    is at most 24 minutes before them. Any other stamp is its own time.

    Args:
        stamped_ns: (N,) int64.

    Returns:
        (N,) int64.

    >>> due_times(np.array([3_600 * NS - 20_000_000, 3_600 * NS + 24 * 60 * NS, 3_600 * NS + 25 * 60 * NS])) // NS
    array([3600, 3600, 5100])
    """
    minute = (stamped_ns + _MINUTE_NS // 2) // _MINUTE_NS * _MINUTE_NS
    due: np.ndarray = np.where(minute % HOUR_NS <= _LATEST_NS, minute // HOUR_NS * HOUR_NS, minute)
    return due


def funding_charges(units: np.ndarray, price: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Return the funding that positions pay at each step; received funding is negative.

    Only a position held into the step pays, and a positive rate means that longs pay shorts.

    Args:
        units: (S, T) float64, units held before each step; negative for shorts.
        price: (S, T) float64, price at the close; NaN where there is none, which charges nothing.
        rates: (S, T) float64, sum of the rates due in (previous close, this close].

    Returns:
        (T,) float64, over all instruments, in the unit of `units * price`.
    """
    charged: np.ndarray = (units * np.nan_to_num(price) * rates).sum(axis=0)
    return charged
