"""Volatility estimators and jump features."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from features.feature import family
from features.ops.rolling import mean_over, means_over, shift

_BIPOWER: Final = (
    "Barndorff-Nielsen and Shephard (2004), Power and Bipower Variation with Stochastic Volatility and Jumps, "
    "J. Financial Econometrics 2(1)"
)

_JUMP_BARS: Final = 60
_JUMP_LIMIT: Final = 4.0
"""A return is a jump if it exceeds this multiple of the preceding volatility. About three in 10^4 normal returns do so
by chance (measured over 50 x 4000; 0.6 if the volatility were known and not estimated from 60 returns)."""


def bipower_variance(step_return: Tensor, bars: int) -> Tensor:
    """Return the bipower variance per bar: a mean of products of neighbouring returns, robust to single jumps.

    Args:
        step_return: (S, T) float64, NaN where missing.
        bars: number of returns, which form `bars - 1` pairs of neighbours.
    """
    size = torch.abs(step_return)
    return math.pi / 2.0 * mean_over(size * shift(size, 1), bars - 1)


@family(
    bars=(30, 120),
    lookback_bars=lambda bars: bars,
    inputs=("log_price",),
    unit="log per sqrt(bar)",
    source="Andersen, Bollerslev, Diebold and Labys (2003), Modeling and Forecasting Realized Volatility, "
    "Econometrica 71(2), as a mean per bar in place of their sum",
)
def realised_volatility(log_price: Tensor, *, bars: int) -> Tensor:
    """Realised volatility of one-bar returns over n bars.

    Formula: sqrt(mean of r[i]^2 over the returns that exist in t-n+1..t), r[i] = ln p[i] - ln p[i-1]

    Missing: fewer than 80 % of the n returns exist; a return needs a price at both of its ends, so moves
    across a hole are left out. The return of a quiet bar is zero.
    """
    change = log_price - shift(log_price, 1)
    return torch.sqrt(mean_over(change * change, bars))


@family(
    bars=(60,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("high", "low", "silent"),
    unit="log per sqrt(bar)",
    source="Parkinson (1980), The Extreme Value Method for Estimating the Variance of the Rate of Return, "
    "J. Business 53(1)",
)
def parkinson_volatility(high: Tensor, low: Tensor, silent: Tensor, *, bars: int) -> Tensor:
    """Parkinson volatility from the high-low ranges of n bars.

    Formula: sqrt(m / (4 ln 2)), m the mean of ln(high/low)^2 over the bars observed in t-n+1..t

    Missing: fewer than 80 % of the n bars observed, or the venue has no trade feed. A quiet bar counts as a
    range of zero. The estimate is too low with few prints per bar, and ignores moves between one bar's last print and
    the next bar's first.
    """
    log_range = torch.where(silent, 0.0, torch.log(high / low))
    return torch.sqrt(mean_over(log_range * log_range, bars) / (4.0 * math.log(2.0)))


@family(
    bars=(120,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("step_return",),
    unit="log per sqrt(bar)",
    source=_BIPOWER + ", as a mean per pair",
)
def bipower_volatility(step_return: Tensor, *, bars: int) -> Tensor:
    """Bipower volatility of n one-bar returns, which excludes jumps.

    Formula: sqrt((pi / 2) m), m the mean of |r[i]| |r[i-1]| over the pairs that exist, i in t-n+2..t, r the one-bar
    log returns

    Missing: fewer than 80 % of the n - 1 pairs exist.
    """
    return torch.sqrt(bipower_variance(step_return, bars))


@family(
    bars=(120,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("step_return",),
    unit="share, 0 to 1",
    source=_BIPOWER
    + "; relative as in Huang and Tauchen (2005), The Relative Contribution of Jumps to Total Price "
    "Variance, J. Financial Econometrics 3(4), cut off at zero",
)
def jump_share(step_return: Tensor, *, bars: int) -> Tensor:
    """Share of the variance of n bars due to jumps.

    Formula: max(V - B, 0) / V, V the mean of r[i]^2 over the returns that exist in t-n+1..t, B the square of
    the bipower volatility of the same bars

    Missing: fewer than 80 % of the n returns or of their n - 1 pairs exist, or the price never moved.
    """
    variance = mean_over(step_return * step_return, bars)
    jumps = torch.clamp(variance - bipower_variance(step_return, bars), min=0.0)
    return torch.where(variance > 0.0, jumps / variance, math.nan)


@family(
    bars=(15,),
    lookback_bars=lambda bars: bars - 1 + _JUMP_BARS,
    inputs=("step_return",),
    unit="jumps",
    source="after Lee and Mykland (2008), Jumps in Financial Markets: A New Nonparametric Test and Jump Dynamics, "
    "Review of Financial Studies 21(6): their ratio with the volatility scaled by pi / 2, and a bound of 4 for theirs",
)
def jump_balance(step_return: Tensor, *, bars: int) -> Tensor:
    """Number of upward less downward jumps in n bars.

    Formula: n times the mean of j[i] over the bars in t-n+1..t that have both r[i] and b[i-1]; j[i] = sign(r[i]) where
    |r[i]| > 4 b[i-1] and 0 elsewhere, b[i-1] the bipower volatility of the 60 returns up to i-1; not an integer if bars
    are missing

    Missing: fewer than 80 % of the n bars have both a return and a volatility to compare it with.
    """
    usual = shift(torch.sqrt(bipower_variance(step_return, _JUMP_BARS)), 1)
    jump = torch.where(torch.abs(step_return) > _JUMP_LIMIT * usual, torch.sign(step_return), 0.0)
    return bars * mean_over(torch.where(torch.isnan(usual) | torch.isnan(step_return), math.nan, jump), bars)


@family(
    bars=(60,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("step_return",),
    unit="share, -1 to 1",
    source="Barndorff-Nielsen, Kinnebrock and Shephard (2010), Measuring Downside Risk: Realised Semivariance, "
    "in Volatility and Time Series Econometrics, Oxford; relative as in Bollerslev, Li and Zhao (2020), Good "
    "Volatility, Bad Volatility, and the Cross Section of Stock Returns, JFQA 55(3)",
)
def semivariance_balance(step_return: Tensor, *, bars: int) -> Tensor:
    """Semivariance of rises less that of falls, as a share of the variance of n bars.

    Formula: (sum of r[i]^2 where r[i] > 0, less where r[i] < 0) / sum of r[i]^2, over the returns that exist in
    t-n+1..t

    Missing: fewer than 80 % of the n returns exist, or the price never moved.
    """
    square = step_return * step_return
    variance, balance = means_over([square, square * torch.sign(step_return)], bars)
    return torch.where(variance > 0.0, balance / variance, math.nan)
