"""Returns, momentum, range position and price age."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from features.feature import family, feature
from features.ops.rolling import mean_over, observed_over, shift
from features.ops.rolling_stats import max_over


def log_change(log_price: Tensor, observed: Tensor, bars: int) -> Tensor:
    """Return the change of the log price over `bars` bars of the clock, where enough of them were observed.

    Args:
        log_price: (S, T) float64, NaN where there is no price.
        observed: (S, T) bool.
    """
    change = log_price - shift(log_price, bars)
    return torch.where(observed_over(observed, bars), change, math.nan)


@family(
    bars=(1, 5, 15, 60),
    lookback_bars=lambda bars: bars,
    inputs=("log_price", "observed"),
    unit="log",
    source="Campbell, Lo and MacKinlay (1997), The Econometrics of Financial Markets, section 1.4",
)
def log_return(log_price: Tensor, observed: Tensor, *, bars: int) -> Tensor:
    """Log return of the last price over n bars.

    Formula: ln p[t] - ln p[t-n], p the last print's price, carried through quiet bars up to 31 bars

    Missing: no price at either end, or fewer than 80 % of the n bars observed. Shorter holes inside the
    window are spanned and their bars counted: n counts steps of the clock, not prints.
    """
    return log_change(log_price, observed, bars)


@family(
    bars=(30, 120),
    lookback_bars=lambda bars: bars,
    inputs=("log_price", "observed"),
    unit="standard deviations",
    source="after Moskowitz, Ooi and Pedersen (2012), Time Series Momentum, J. Financial Economics 104(2), with the "
    "plain volatility of the same bars for their exponentially weighted one of the time before",
)
def momentum(log_price: Tensor, observed: Tensor, *, bars: int) -> Tensor:
    """Return over n bars, scaled by the volatility of the same bars.

    Formula: (ln p[t] - ln p[t-n]) / (s sqrt(n)), s = sqrt(mean of r[i]^2 over the returns that exist in t-n+1..t),
    r[i] = ln p[i] - ln p[i-1]; where all exist it lies within -sqrt(n) and sqrt(n)

    Missing: the n-bar return is missing, or fewer than 80 % of the one-bar returns exist, or the price never moved.
    """
    step = log_price - shift(log_price, 1)
    spread = torch.sqrt(bars * mean_over(step * step, bars))
    return torch.where(spread > 0.0, log_change(log_price, observed, bars) / spread, math.nan)


@family(
    bars=(60,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("log_price", "high", "low", "observed"),
    unit="share, 0 to 1",
    source="after George and Hwang (2004), The 52-Week High and Momentum Investing, J. Finance 59(5), who take price "
    "over high; the low beside the high, in logs, as in Lane's stochastic %K",
)
def range_position(log_price: Tensor, high: Tensor, low: Tensor, observed: Tensor, *, bars: int) -> Tensor:
    """Position of the last price between the lowest (0) and the highest (1) print of n bars.

    Formula: (ln p[t] - ln L) / (ln H - ln L), L the least low and H the greatest high of the bars that printed
    in t-n+1..t

    Missing: no price now, fewer than 80 % of the n bars observed, or the price never moved.
    """
    top, bottom = max_over(torch.log(high), bars), -max_over(-torch.log(low), bars)
    is_known = observed_over(observed, bars) & (top > bottom)
    return torch.where(is_known, (log_price - bottom) / (top - bottom), math.nan)


@family(
    bars=(120,),
    lookback_bars=lambda bars: bars,
    inputs=("log_price",),
    unit="ratio",
    source="after Lo and MacKinlay (1988), Stock Market Prices Do Not Follow Random Walks, Review of Financial "
    "Studies 1(1), overlapping returns, q = 5, without their mean return and without their correction for bias",
)
def variance_ratio(log_price: Tensor, *, bars: int) -> Tensor:
    """Variance ratio of five-bar to one-bar returns, less 1: above 0 suggests trend, below 0 reversal.

    Formula: mean of q[i]^2 / (5 mean of r[i]^2) - 1, q[i] = ln p[i] - ln p[i-5] over t-n+5..t, r[i] = ln p[i] -
    ln p[i-1] over t-n+1..t

    Missing: fewer than 80 % of the one-bar or of the five-bar returns exist, or the price never moved. A return needs
    a price only at its two ends, so a five-bar return may span a hole of up to four bars.
    """
    one, five = log_price - shift(log_price, 1), log_price - shift(log_price, 5)
    single = mean_over(one * one, bars)
    return torch.where(single > 0.0, mean_over(five * five, bars - 4) / (5.0 * single) - 1.0, math.nan)


@feature(
    lookback_bars=0,
    inputs=("price_age",),
    unit="bars",
    source="Lo and MacKinlay (1990), An econometric analysis of nonsynchronous trading, J. Econometrics "
    "45(1-2), their duration of nontrading",
)
def price_age(price_age: Tensor) -> Tensor:
    """Age of the last price.

    Formula: bars since the last print, 0 where this bar printed; every bar since was quiet

    Missing: inside a hole, after a hole until the next print, and beyond 31 bars.
    """
    return price_age
