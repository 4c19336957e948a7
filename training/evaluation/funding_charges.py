"""Funding charged to positions held across a payment."""

from __future__ import annotations

import numpy as np


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
