"""Returns of Bitcoin and Ether, and how an instrument follows them.

The leaders are those of the instrument's own venue (`features.inputs.leader_rows`), read from the panel itself; if the
panel lacks one, its features are missing. For the leader itself the formulas apply unchanged: its own return, a beta of
one.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from features.feature import family
from features.library.returns import log_change
from features.ops.rolling import shift
from features.ops.rolling_stats import moments_over

_FOLLOWING: Final = (
    "Lo and MacKinlay (1990), When Are Contrarian Profits Due to Stock Market Overreaction?, "
    "Review of Financial Studies 3(2), cross-autocorrelations"
)
_BETA_BARS: Final = 120


def lead_correlation(step_return: Tensor, leader_step_return: Tensor, bars: int) -> Tensor:
    """Return the correlation of one-bar returns with the leader's previous one-bar return, over `bars - 1` pairs."""
    covariance, variance, leader_variance = moments_over(step_return, shift(leader_step_return, 1), bars - 1)
    return covariance / torch.sqrt(variance * leader_variance)


@family(
    bars=(1, 5),
    lookback_bars=lambda bars: bars,
    inputs=("observed", "btc_log_price", "btc_observed"),
    unit="log",
    source=_FOLLOWING,
)
def btc_return(observed: Tensor, btc_log_price: Tensor, btc_observed: Tensor, *, bars: int) -> Tensor:
    """Return of Bitcoin over n bars, the same for every instrument of a venue.

    Formula: ln p[t] - ln p[t-n], p the last print's price of BTC at the instrument's venue

    Missing: the instrument's own bar was not observed, the panel lacks BTC, or BTC has no n-bar return.
    """
    return torch.where(observed, log_change(btc_log_price, btc_observed, bars), math.nan)


@family(
    bars=(1, 5),
    lookback_bars=lambda bars: bars,
    inputs=("observed", "eth_log_price", "eth_observed"),
    unit="log",
    source=_FOLLOWING,
)
def eth_return(observed: Tensor, eth_log_price: Tensor, eth_observed: Tensor, *, bars: int) -> Tensor:
    """Return of Ether over n bars, the same for every instrument of a venue.

    Formula: ln p[t] - ln p[t-n], p the last print's price of ETH at the instrument's venue

    Missing: the instrument's own bar was not observed, the panel lacks ETH, or ETH has no n-bar return.
    """
    return torch.where(observed, log_change(eth_log_price, eth_observed, bars), math.nan)


@family(
    bars=(120,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("step_return", "btc_step_return"),
    unit="correlation",
    source=_FOLLOWING,
)
def btc_lead(step_return: Tensor, btc_step_return: Tensor, *, bars: int) -> Tensor:
    """Correlation of the instrument's one-bar returns with Bitcoin's of the previous bar.

    Formula: corr(r[i], b[i-1]) over the pairs that exist in t-n+2..t, r the one-bar log returns, b those of BTC

    Missing: the panel lacks BTC, fewer than 80 % of the n - 1 pairs exist, or either price never moved in them.
    """
    return lead_correlation(step_return, btc_step_return, bars)


@family(
    bars=(120,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("step_return", "eth_step_return"),
    unit="correlation",
    source=_FOLLOWING,
)
def eth_lead(step_return: Tensor, eth_step_return: Tensor, *, bars: int) -> Tensor:
    """Correlation of the instrument's one-bar returns with Ether's of the previous bar.

    Formula: corr(r[i], e[i-1]) over the pairs that exist in t-n+2..t, r the one-bar log returns, e those of ETH

    Missing: the panel lacks ETH, fewer than 80 % of the n - 1 pairs exist, or either price never moved in them.
    """
    return lead_correlation(step_return, eth_step_return, bars)


@family(
    bars=(120,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("step_return", "btc_step_return"),
    unit="log per log",
    source="after Sharpe (1964), Capital Asset Prices, J. Finance 19(3), with Bitcoin for the market and no riskless "
    "rate",
)
def btc_beta(step_return: Tensor, btc_step_return: Tensor, *, bars: int) -> Tensor:
    """Beta of the instrument's one-bar returns to Bitcoin's.

    Formula: cov(r, b) / var(b) over the returns that both have in t-n+1..t, r the one-bar log returns, b those of BTC

    Missing: the panel lacks BTC, fewer than 80 % of the n pairs exist, or either price never moved in them.
    """
    covariance, own, leader_variance = moments_over(step_return, btc_step_return, bars)
    return torch.where(torch.isnan(own), own, covariance / leader_variance)


@family(
    bars=(5,),
    lookback_bars=lambda bars: max(bars, _BETA_BARS - 1),
    inputs=("log_price", "observed", "btc_log_price", "btc_observed", "step_return", "btc_step_return"),
    unit="log",
    source="the market model of Sharpe (1964), J. Finance 19(3), without its constant; on why the lag may be made up: "
    "Chan (1993), Imperfect Information and Cross-Autocorrelation among Stock Prices, J. Finance 48(4)",
)
def btc_residual(
    log_price: Tensor,
    observed: Tensor,
    btc_log_price: Tensor,
    btc_observed: Tensor,
    step_return: Tensor,
    btc_step_return: Tensor,
    *,
    bars: int,
) -> Tensor:
    """Return over n bars beyond what Bitcoin's return explains; if negative, the instrument lags and may catch up.

    Formula: r - beta b, r and b the n-bar log returns of the instrument and of BTC, beta = cov / var as in `btc_beta`,
    of the one-bar returns that both have in t-119..t

    Missing: either n-bar return is missing, fewer than 80 % of the 120 pairs exist, or BTC's price never moved in them.
    If the instrument's own price never moved, beta is 0.
    """
    covariance, _, leader_variance = moments_over(step_return, btc_step_return, _BETA_BARS)
    leader_change = log_change(btc_log_price, btc_observed, bars)
    return log_change(log_price, observed, bars) - covariance / leader_variance * leader_change
