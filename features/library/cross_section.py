"""Cross-sectional features: ranks among instruments, and market returns.

Sums over instruments are sums of integers, so that neither the order of the instruments nor the width of a vector
register affects the last bit. Tracing records `rank_of` and `market_of` as single nodes, like a shift
(features/ops/rolling.py), and features/engine/kernels.py has a faster kernel for each.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from features.feature import family
from features.library.returns import log_change
from features.ops.cross_section import market_of, rank_of
from features.ops.rolling import mean_over, shift


@family(
    bars=(5, 60),
    lookback_bars=lambda bars: bars,
    inputs=("log_price", "observed"),
    unit="share, -0.5 to 0.5",
    source="after Kelly, Pruitt and Su (2019), Characteristics Are Covariances, J. Financial Economics 134(3), with "
    "k - 1 for k, so that the ends are reached",
)
def return_rank(log_price: Tensor, observed: Tensor, *, bars: int) -> Tensor:
    """Rank of the n-bar return among the instruments; the highest has 0.5.

    Formula: (instruments with a lower return + half the others with an equal one) / (k - 1) - 1/2, k the
    instruments that have an n-bar return at this step

    Missing: this instrument has no n-bar return, or fewer than 3 instruments have.
    """
    return rank_of(log_change(log_price, observed, bars))


@family(
    bars=(5,),
    lookback_bars=lambda bars: bars,
    inputs=("log_price", "observed"),
    unit="log",
    source="Brown and Warner (1985), Using Daily Stock Returns: The Case of Event Studies, "
    "J. Financial Economics 14(1), market-adjusted returns",
)
def market_residual(log_price: Tensor, observed: Tensor, *, bars: int) -> Tensor:
    """Return over n bars in excess of the market's.

    Formula: r[t] - mean of r[t] over the instruments that have one, itself included, r the n-bar log return, rounded
    to 2^-40 (1e-12) for the mean

    Missing: this instrument has no n-bar return, or fewer than 3 instruments have.
    """
    change = log_change(log_price, observed, bars)
    return change - market_of(change)


@family(
    bars=(5,),
    lookback_bars=lambda bars: bars,
    inputs=("log_price", "observed"),
    unit="log",
    source="Brown and Warner (1985), Using Daily Stock Returns: The Case of Event Studies, "
    "J. Financial Economics 14(1), equally weighted index",
)
def market_return(log_price: Tensor, observed: Tensor, *, bars: int) -> Tensor:
    """Market return over n bars, the same for every instrument.

    Formula: mean of r[t] over the instruments that have one, r the n-bar log return, rounded to 2^-40 (1e-12)

    Missing: the instrument's own bar was not observed, or fewer than 3 instruments have an n-bar return.
    """
    return torch.where(observed, market_of(log_change(log_price, observed, bars)), math.nan)


@family(
    bars=(5,),
    lookback_bars=lambda bars: bars,
    inputs=("log_price", "observed"),
    unit="log",
    source="the mean absolute deviation of Chang, Cheng and Khorana (2000), An Examination of Herd Behavior in Equity "
    "Markets: An International Perspective, J. Banking and Finance 24(10); Christie and Huang (1995), Following the "
    "Pied Piper, Financial Analysts Journal 51(4), take the standard deviation",
)
def market_dispersion(log_price: Tensor, observed: Tensor, *, bars: int) -> Tensor:
    """Cross-sectional dispersion of the instruments' n-bar returns.

    Formula: mean of |r[t] - m[t]| over the instruments that have a return, r the n-bar log return and m its mean;
    in both means the summands are rounded to 2^-40 (1e-12)

    Missing: the instrument's own bar was not observed, or fewer than 3 instruments have an n-bar return.
    """
    change = log_change(log_price, observed, bars)
    return torch.where(observed, market_of(torch.abs(change - market_of(change))), math.nan)


@family(
    bars=(30,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("step_return",),
    unit="share, -0.5 to 0.5",
    source="after Ang, Hodrick, Xing and Zhang (2006), The Cross-Section of Volatility and Expected Returns, "
    "J. Finance 61(1), total volatility for idiosyncratic",
)
def volatility_rank(step_return: Tensor, *, bars: int) -> Tensor:
    """Rank of the realised volatility among the instruments.

    Formula: as `return_rank`, of the mean of r[i]^2 over the one-bar returns that exist in t-n+1..t

    Missing: fewer than 80 % of the instrument's n returns exist, or fewer than 3 instruments have a volatility.
    """
    return rank_of(mean_over(step_return * step_return, bars))


@family(
    bars=(120,),
    lookback_bars=lambda bars: bars,
    inputs=("volume",),
    unit="share, -0.5 to 0.5",
    source="after Gervais, Kaniel and Mingelgrin (2001), The High-Volume Return Premium, J. Finance 56(3), who rank a "
    "day among the instrument's own days",
)
def volume_rank(volume: Tensor, *, bars: int) -> Tensor:
    """Rank among the instruments of this bar's volume relative to the mean of the bars before it.

    Formula: as `return_rank`, of volume[t] / mean of volume over t-n..t-1

    Missing: this instrument's volume, or fewer than 80 % of the n before it, or those are all zero; or fewer than 3
    instruments have such a ratio.
    """
    usual = shift(mean_over(volume, bars), 1)
    return rank_of(torch.where(usual > 0.0, volume / usual, math.nan))
