"""Where does an instrument stand among the others at the same step?

What is summed over instruments here is summed in integers, so that neither the order of the instruments nor
the width of a vector register can show in the last bit.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from features.returns import log_change
from features.spec import family

MIN_INSTRUMENTS: Final = 3
"""With fewer, a rank is no more than a sign and a market is no more than the other instrument."""

# Log returns in fixed point: 2^-40 is 1e-12, and 2^63 is room for 10^6 instruments at |return| below 8.
_FIXED: Final = 2.0**40


@family(
    bars=(5,),
    lookback_bars=lambda bars: bars,
    inputs=("log_price", "observed"),
    unit="share, -0.5 to 0.5",
    source="Gu, Kelly and Xiu (2020), Empirical Asset Pricing via Machine Learning, "
    "Review of Financial Studies 33(5), section 2.1",
)
def return_rank(log_price: Tensor, observed: Tensor, *, bars: int) -> Tensor:
    """Rank of the n-bar return among the instruments.

    Formula: (instruments with a lower return + half the others with an equal one) / (k - 1) - 1/2, k the
    instruments that have an n-bar return at this step

    Missing: this instrument has no n-bar return, or fewer than 3 instruments have.
    """
    change = log_change(log_price, observed, bars)
    there = torch.isfinite(change)
    count = there.sum(dim=0)
    # What is missing sorts behind everything, so it counts for nobody.
    across = torch.where(there, change, math.inf).t().contiguous()
    ordered = across.sort(dim=1).values
    lower = torch.searchsorted(ordered, across)
    not_higher = torch.searchsorted(ordered, across, right=True)
    place = (lower + not_higher - 1).t().to(torch.float64) / 2.0
    return torch.where(there & (count >= MIN_INSTRUMENTS), place / (count - 1) - 0.5, math.nan)


@family(
    bars=(5,),
    lookback_bars=lambda bars: bars,
    inputs=("log_price", "observed"),
    unit="log",
    source="Brown and Warner (1985), Using Daily Stock Returns: The Case of Event Studies, "
    "J. Financial Economics 14(1), market-adjusted returns",
)
def market_residual(log_price: Tensor, observed: Tensor, *, bars: int) -> Tensor:
    """Return over n bars beyond that of the market.

    Formula: r[t] - mean of r[t] over the instruments that have one, r the n-bar log return, the mean rounded
    to 1e-12

    Missing: this instrument has no n-bar return, or fewer than 3 instruments have.
    """
    change = log_change(log_price, observed, bars)
    there = torch.isfinite(change)
    count = there.sum(dim=0)
    fixed = torch.round(torch.where(there, change, 0.0) * _FIXED).to(torch.int64)
    market = fixed.sum(dim=0).to(torch.float64) / _FIXED / count
    return torch.where(there & (count >= MIN_INSTRUMENTS), change - market, math.nan)
