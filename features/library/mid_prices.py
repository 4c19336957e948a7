"""Returns, momentum and volatility of the mid, for venues without a trade feed.

GaiaEx publishes books only, so its bars have quotes and no prints. The mid is that of the closing quotes; it is missing
where they are crossed, one-sided, or known to be older than 300 s, and it is never carried forward.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from features.feature import family
from features.library.returns import log_change
from features.ops.cross_section import market_of, rank_of
from features.ops.rolling import mean_over, shift

_MID: Final = "; of mids in place of prints, which avoids the bid-ask bounce (Roll, 1984, J. Finance 39(4))"


@family(
    bars=(1, 5, 15, 60),
    lookback_bars=lambda bars: bars,
    inputs=("log_mid", "observed"),
    unit="log",
    source="Campbell, Lo and MacKinlay (1997), The Econometrics of Financial Markets, section 1.4" + _MID,
)
def mid_return(log_mid: Tensor, observed: Tensor, *, bars: int) -> Tensor:
    """Log return of the mid over n bars.

    Formula: ln m[t] - ln m[t-n], m the mid of the closing quotes

    Missing: no mid at either end, or fewer than 80 % of the n bars observed.
    """
    return log_change(log_mid, observed, bars)


@family(
    bars=(30, 120),
    lookback_bars=lambda bars: bars,
    inputs=("log_mid", "observed"),
    unit="standard deviations",
    source="after Moskowitz, Ooi and Pedersen (2012), Time Series Momentum, J. Financial Economics 104(2), with the "
    "plain volatility of the same bars" + _MID,
)
def mid_momentum(log_mid: Tensor, observed: Tensor, *, bars: int) -> Tensor:
    """Return of the mid over n bars, scaled by the volatility of the same bars.

    Formula: (ln m[t] - ln m[t-n]) / (s sqrt(n)), s = sqrt(mean of r[i]^2 over the returns that exist in t-n+1..t),
    r[i] = ln m[i] - ln m[i-1]

    Missing: the n-bar return is missing, or fewer than 80 % of the one-bar returns exist, or the mid never moved.
    """
    step = log_mid - shift(log_mid, 1)
    spread = torch.sqrt(bars * mean_over(step * step, bars))
    return torch.where(spread > 0.0, log_change(log_mid, observed, bars) / spread, math.nan)


@family(
    bars=(30, 120),
    lookback_bars=lambda bars: bars,
    inputs=("log_mid",),
    unit="log per sqrt(bar)",
    source="Andersen, Bollerslev, Diebold and Labys (2003), Modeling and Forecasting Realized Volatility, "
    "Econometrica 71(2), as a mean per bar" + _MID,
)
def mid_volatility(log_mid: Tensor, *, bars: int) -> Tensor:
    """Realised volatility of one-bar returns of the mid over n bars.

    Formula: sqrt(mean of r[i]^2 over the returns that exist in t-n+1..t), r[i] = ln m[i] - ln m[i-1]

    Missing: fewer than 80 % of the n returns exist.
    """
    step = log_mid - shift(log_mid, 1)
    return torch.sqrt(mean_over(step * step, bars))


@family(
    bars=(5, 60),
    lookback_bars=lambda bars: bars,
    inputs=("log_mid", "observed"),
    unit="share, -0.5 to 0.5",
    source="after Kelly, Pruitt and Su (2019), Characteristics Are Covariances, J. Financial Economics 134(3), with "
    "k - 1 for k, so that the ends are reached" + _MID,
)
def mid_return_rank(log_mid: Tensor, observed: Tensor, *, bars: int) -> Tensor:
    """Rank of the mid's n-bar return among the instruments; the highest has 0.5.

    Formula: (instruments with a lower return + half the others with an equal one) / (k - 1) - 1/2, k the
    instruments that have an n-bar return of the mid at this step

    Missing: this instrument has no n-bar return, or fewer than 3 instruments have.
    """
    return rank_of(log_change(log_mid, observed, bars))


@family(
    bars=(5,),
    lookback_bars=lambda bars: bars,
    inputs=("log_mid", "observed"),
    unit="log",
    source="Brown and Warner (1985), Using Daily Stock Returns: The Case of Event Studies, "
    "J. Financial Economics 14(1), market-adjusted returns" + _MID,
)
def mid_residual(log_mid: Tensor, observed: Tensor, *, bars: int) -> Tensor:
    """Return of the mid over n bars in excess of the market's.

    Formula: r[t] - mean of r[t] over the instruments that have one, itself included, r the n-bar log return of the
    mid, rounded to 2^-40 (1e-12) for the mean

    Missing: this instrument has no n-bar return, or fewer than 3 instruments have.
    """
    change = log_change(log_mid, observed, bars)
    return change - market_of(change)
