"""Canaries: features with planted leaks that every run of the proof must catch.

A proof that misses one is itself broken, and fails.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from features.feature import feature
from features.ops.rolling import shift


@feature(lookback_bars=15, inputs=("log_price",), unit="log", source="planted leak, must be caught")
def canary_looks_ahead(log_price: Tensor) -> Tensor:
    """Mean log price over a window centred on the bar.

    Formula: mean of ln p over t-15..t+15

    Missing: no price in the window.
    """
    ahead = pad(log_price, (15, 15), value=math.nan).unfold(1, 31, 1)
    return ahead.nanmean(dim=2)


@feature(lookback_bars=0, inputs=("log_price",), unit="log", source="planted leak, must be caught")
def canary_reaches_back(log_price: Tensor) -> Tensor:
    """Log price one bar beyond the declared lookback.

    Formula: ln p[t-32], where 31 bars are declared

    Missing: no price there.
    """
    return shift(log_price, canary_reaches_back.lookback_bars + 1)


@feature(lookback_bars=5, inputs=("volume",), unit="base", source="planted leak, must be caught")
def canary_remembers(volume: Tensor) -> Tensor:
    """Volume of five bars as the difference of two running sums, whose rounding depends on the first bar of the panel.

    Formula: c[t] - c[t-5], c the running sum of volume from the first bar of the panel on

    Missing: never.
    """
    total = (torch.nan_to_num(volume) + 0.1).cumsum(dim=1)
    return total - pad(total, (5, 0))[:, : total.shape[1]]
