"""What time of day is it when the bar closes?"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from features.spec import feature

_SOURCE: Final = (
    "Andersen and Bollerslev (1997), Intraday periodicity and volatility persistence in financial markets, "
    "J. Empirical Finance 4(2-3)"
)


@feature(lookback_bars=0, inputs=("day_share",), unit="-1 to 1", source=_SOURCE)
def hour_sin(day_share: Tensor) -> Tensor:
    """Hour of the UTC day on a circle, sine.

    Formula: sin(2 pi x), x the share of the UTC day that has passed at the close

    Missing: never.
    """
    return torch.sin(2.0 * math.pi * day_share)


@feature(lookback_bars=0, inputs=("day_share",), unit="-1 to 1", source=_SOURCE)
def hour_cos(day_share: Tensor) -> Tensor:
    """Hour of the UTC day on a circle, cosine.

    Formula: cos(2 pi x), x the share of the UTC day that has passed at the close

    Missing: never.
    """
    return torch.cos(2.0 * math.pi * day_share)
