"""How much has the price moved about?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from features.spec import family
from features.windows import mean_over, shift


@family(
    bars=(30, 120),
    lookback_bars=lambda bars: bars,
    inputs=("log_price",),
    unit="log per sqrt(bar)",
    source="Andersen, Bollerslev, Diebold and Labys (2003), Modeling and Forecasting Realized Volatility, "
    "Econometrica 71(2)",
)
def realised_volatility(log_price: Tensor, *, bars: int) -> Tensor:
    """Realised volatility of one-bar returns over n bars.

    Formula: sqrt(mean of r[i]^2 over the returns that exist in t-n+1..t), r[i] = ln p[i] - ln p[i-1]

    Missing: fewer than 80 % of the n returns exist; a return needs a price at both of its own ends, so the
    move over a hole is left out. A quiet bar returns zero.
    """
    change = log_price - shift(log_price, 1)
    return torch.sqrt(mean_over(change * change, bars))


@family(
    bars=(60,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("high", "low", "quiet"),
    unit="log per sqrt(bar)",
    source="Parkinson (1980), The Extreme Value Method for Estimating the Variance of the Rate of Return, "
    "J. Business 53(1)",
)
def parkinson_volatility(high: Tensor, low: Tensor, quiet: Tensor, *, bars: int) -> Tensor:
    """Volatility from the ranges of n bars.

    Formula: sqrt(mean of ln(high/low)^2 over the bars observed in t-n+1..t / (4 ln 2))

    Missing: fewer than 80 % of the n bars observed. A quiet bar has no range: zero.
    """
    log_range = torch.where(quiet, 0.0, torch.log(high / low))
    return torch.sqrt(mean_over(log_range * log_range, bars) / (4.0 * math.log(2.0)))
