"""Order flow, volume, trade intensity and distance from the volume-weighted price."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from features.feature import family
from features.ops.rolling import mean_over, means_over, shift
from features.ops.rolling_stats import moments_over

# Below this share of the squared mean, a variance is rounding error of a constant.
_CONSTANT: Final = 1e-10
_USUAL_BARS: Final = 120


@family(
    bars=(1, 5, 15),
    lookback_bars=lambda bars: bars - 1,
    inputs=("buy_volume", "volume"),
    unit="share, -1 to 1",
    source="after Chordia and Subrahmanyam (2004), Order imbalance and individual stock returns, "
    "J. Financial Economics 72(3), in base units; the aggressor's side is the venue's own (WsTrade.side), not inferred",
)
def flow_imbalance(buy_volume: Tensor, volume: Tensor, *, bars: int) -> Tensor:
    """Aggressor buy volume less sell volume, as a share of the volume of n bars: 1 if all bought, -1 if all sold.

    Formula: 2 (sum of buy_volume / sum of volume) - 1, over the bars in t-n+1..t where both are known

    Missing: side and volume known for fewer than 80 % of the n bars, or no volume at all.
    A quiet bar adds zero to both sums.
    """
    bought, traded = means_over([buy_volume, volume], bars)
    return torch.where(traded > 0.0, 2.0 * (bought / traded) - 1.0, math.nan)


@family(
    bars=(5, 30),
    lookback_bars=lambda bars: max(bars, _USUAL_BARS) - 1,
    inputs=("buy_volume", "volume"),
    unit="bars of usual volume",
    source="after Chordia, Roll and Subrahmanyam (2002), Order imbalance, liquidity, and market returns, "
    "J. Financial Economics 65(1), against the usual volume; the aggressor's side is the venue's own (WsTrade.side), "
    "not inferred",
)
def signed_flow(buy_volume: Tensor, volume: Tensor, *, bars: int) -> Tensor:
    """Aggressor buy volume less sell volume over n bars, in units of the mean volume of a bar.

    Formula: n x / m, x the mean of 2 buy_volume - volume over the bars in t-n+1..t where both are known, m the mean of
    volume over the bars in t-119..t where it is known

    Missing: side and volume known for fewer than 80 % of the n bars, volume for fewer than 80 % of the 120, or no
    volume in them at all. A quiet bar adds zero.
    """
    usual = mean_over(volume, _USUAL_BARS)
    signed = bars * mean_over(2.0 * buy_volume - volume, bars)
    return torch.where(usual > 0.0, signed / usual, math.nan)


@family(
    bars=(60,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("step_return", "buy_volume", "volume"),
    unit="bp per bar of usual volume",
    source="after Kyle (1985), Continuous Auctions and Insider Trading, Econometrica 53(6), the slope lambda by least "
    "squares on one bar's own flow: Hasbrouck (1991), Measuring the Information Content of Stock Trades, J. Finance "
    "46(1), with last prices for quotes and without lags",
)
def price_impact(step_return: Tensor, buy_volume: Tensor, volume: Tensor, *, bars: int) -> Tensor:
    """Price impact of net buying equal to one bar's mean volume.

    Formula: 1e4 m cov(r, x) / var(x), r the one-bar log return, x = 2 buy_volume - volume, m the mean of volume;
    over the bars in t-n+1..t where r and x exist, m over those where volume is known; positive where the price moves
    with the flow

    Missing: r and x exist for fewer than 80 % of the n bars, or x does not vary. If the price never moved, the value
    is 0.
    """
    signed = 2.0 * buy_volume - volume
    covariance, _, variance = moments_over(step_return, signed, bars)
    return 1e4 * mean_over(volume, bars) * (covariance / variance)


@family(
    bars=(120,),
    lookback_bars=lambda bars: bars,
    inputs=("volume",),
    unit="standard deviations",
    source="a plain score; why volume: Karpoff (1987), The Relation between Price Changes and Trading Volume, JFQA "
    "22(1); why its root: Bartlett (1936), The Square Root Transformation in Analysis of Variance, Supplement to the "
    "J. Royal Statistical Society 3(1)",
)
def volume_score(volume: Tensor, *, bars: int) -> Tensor:
    """Volume of this bar relative to the n bars before it, as a standard score of its square root.

    Formula: (y[t] - mean(y)) / sd(y), y = sqrt(volume), mean and sd (divisor count, not count - 1) over the bars
    in t-n..t-1 where volume is known

    Missing: this bar's volume, or fewer than 80 % of the n before it; also if those do not vary. A quiet
    bar counts as zero.
    """
    root = torch.sqrt(volume)
    mean, square = (shift(part, 1) for part in means_over([root, volume], bars))
    variance = square - mean * mean
    return torch.where(variance > _CONSTANT * mean * mean, (root - mean) / torch.sqrt(variance), math.nan)


@family(
    bars=(30,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("log_price", "notional", "volume"),
    unit="log",
    source="after Berkowitz, Logue and Noser (1988), The Total Cost of Transactions on the NYSE, J. Finance 43(1), "
    "over n bars in place of their day",
)
def vwap_distance(log_price: Tensor, notional: Tensor, volume: Tensor, *, bars: int) -> Tensor:
    """Log distance of the last price from the volume-weighted price of n bars; positive above it.

    Formula: ln p[t] - ln(sum of notional / sum of volume), over the bars in t-n+1..t where both are known

    Missing: no price now, notional and volume known for fewer than 80 % of the n bars, or no volume at all.
    A quiet bar adds zero to both sums.
    """
    paid, traded = means_over([notional, volume], bars)
    return torch.where(traded > 0.0, log_price - torch.log(paid / traded), math.nan)


@family(
    bars=(30,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("trades",),
    unit="ln(1 + prints per bar)",
    source="after Dufour and Engle (2000), Time and the Price Impact of a Trade, J. Finance 55(6), prints per time for "
    "their time between prints",
)
def print_rate(trades: Tensor, *, bars: int) -> Tensor:
    """Trade frequency over n bars.

    Formula: ln(1 + mean of trades), over the bars in t-n+1..t where prints are counted

    Missing: prints counted for fewer than 80 % of the n bars. A quiet bar counts as zero.
    """
    return torch.log1p(mean_over(trades, bars))


@family(
    bars=(30,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("silent", "taped"),
    unit="share, 0 to 1",
    source="Bandi, Kolokolov, Pirino and Reno (2020), Zeros, Management Science 66(8), their idleness: no trading, not "
    "merely no change of price",
)
def empty_share(silent: Tensor, taped: Tensor, *, bars: int) -> Tensor:
    """Share of the observed bars among n that had no trade.

    Formula: quiet bars / observed bars, of t-n+1..t

    Missing: fewer than 80 % of the n bars observed, or the venue has no trade feed. An unobserved bar does
    not count as empty.
    """
    return mean_over(torch.where(taped, silent.to(torch.float64), math.nan), bars)
