"""Volatility and illiquidity regimes.

The filter is causal and finite: exponentially weighted means with half-lives of 8 and 40 bars, cut off after n bars.
Unlike a Markov filter or an unbounded exponential mean, its state does not depend on where the panel begins; and it has
no hysteresis, so a state is a function of its window.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from features.feature import family
from features.ops.rolling_stats import decayed_means_over

_SHORT: Final = 8.0
_LONG: Final = 40.0
_STATE: Final = math.log(1.25)
"""Log ratio beyond which the state differs from usual. On normal returns of constant volatility the log ratio of the
volatilities has a standard deviation of 0.10, so 3 % of bars are classified as calm or volatile by chance. That of the
illiquidities has 0.11 (5 %) with constant volume, and 0.21 (28 %) with log-normal volumes whose logs have a standard
deviation of 1 (measured over 50 x 4000 bars)."""

_VOLATILITY: Final = (
    "after RiskMetrics Technical Document (fourth edition, 1996), section 5.2, exponential weights, cut off after n "
    "bars; two fixed bounds for the Markov states of Hamilton (1989), Econometrica 57(2)"
)
_LIQUIDITY: Final = (
    "after Amihud (2002), Illiquidity and Stock Returns, J. Financial Markets 5(1), a ratio of means for his mean of "
    "ratios; weights as in RiskMetrics (1996), cut off after n bars"
)


def volatility_ratio(step_return: Tensor, bars: int) -> Tensor:
    """Return the log ratio of short-term to long-term volatility, (S, T)."""
    square = [step_return * step_return]
    [short], [long] = decayed_means_over(square, bars, _SHORT), decayed_means_over(square, bars, _LONG)
    return torch.where((short > 0.0) & (long > 0.0), torch.log(short / long) / 2.0, math.nan)


def illiquidity_ratio(step_return: Tensor, log_price: Tensor, volume: Tensor, bars: int) -> Tensor:
    """Return the log ratio of short-term to long-term illiquidity, (S, T)."""
    pair = [torch.abs(step_return), torch.exp(log_price) * volume]
    (moved, traded), (moved_long, traded_long) = (decayed_means_over(pair, bars, h) for h in (_SHORT, _LONG))
    ratio = moved / traded / (moved_long / traded_long)
    return torch.where((ratio > 0.0) & (ratio < math.inf), torch.log(ratio), math.nan)


def state_of(ratio: Tensor) -> Tensor:
    """Return -1 below the lower bound, 1 above the upper one and 0 in between; NaN where the ratio is NaN."""
    return torch.where(torch.abs(ratio) > _STATE, torch.sign(ratio), 0.0 * ratio)


@family(
    bars=(120,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("step_return",),
    unit="log",
    source=_VOLATILITY,
)
def volatility_regime(step_return: Tensor, *, bars: int) -> Tensor:
    """Short-term relative to long-term volatility; positive if volatility is elevated.

    Formula: ln(V8 / V40) / 2, Vh the mean of r[i]^2 over the returns that exist in t-n+1..t, weighted by
    2^(-age / h)

    Missing: existing returns carry less than 80 % of either total weight, or the price did not move.
    """
    return volatility_ratio(step_return, bars)


@family(
    bars=(120,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("step_return",),
    unit="-1, 0 or 1",
    source=_VOLATILITY,
)
def volatility_state(step_return: Tensor, *, bars: int) -> Tensor:
    """Volatility state: calm (-1), usual (0) or volatile (1).

    Formula: the sign of `volatility_regime` where it is beyond ln 1.25, 0 elsewhere

    Missing: as `volatility_regime`.
    """
    return state_of(volatility_ratio(step_return, bars))


@family(
    bars=(120,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("step_return", "log_price", "volume"),
    unit="log",
    source=_LIQUIDITY,
)
def illiquidity_regime(step_return: Tensor, log_price: Tensor, volume: Tensor, *, bars: int) -> Tensor:
    """Short-term relative to long-term illiquidity (price move per notional traded); positive if harder to trade.

    Formula: ln(L8 / L40), Lh = mean of |r[i]| / mean of p[i] volume[i] over the bars that have both in t-n+1..t,
    each weighted by 2^(-age / h), p the last print's price

    Missing: bars that have both carry less than 80 % of either total weight, the price did not move, or nothing was
    traded.
    """
    return illiquidity_ratio(step_return, log_price, volume, bars)


@family(
    bars=(120,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("step_return", "log_price", "volume"),
    unit="-1, 0 or 1",
    source=_LIQUIDITY,
)
def illiquidity_state(step_return: Tensor, log_price: Tensor, volume: Tensor, *, bars: int) -> Tensor:
    """Liquidity state: easy (-1), usual (0) or hard (1) to trade.

    Formula: the sign of `illiquidity_regime` where it is beyond ln 1.25, 0 elsewhere

    Missing: as `illiquidity_regime`.
    """
    return state_of(illiquidity_ratio(step_return, log_price, volume, bars))
