"""Half spread of bars without a quote, estimated from their prints.

Two estimators look at the bars that printed in a trailing window, and the larger estimate counts:

- EDGE (Ardia, Guidotti and Kroencke, Efficient estimation of bid-ask spreads from open, high, low, and close prices,
  Journal of Financial Economics 161, 2024): products of returns within a bar and between neighbours, weighted by their
  precision. The tests compare it with the authors' package `bidask` 2.1.0 (MIT). Its second moment supposes that an
  open's side does not depend on the side of the close before it; where that moment is significantly larger than the
  first, prints alternate, and the first counts alone.
- Roll (A simple implicit measure of the effective bid-ask spread in an efficient market, Journal of Finance 39, 1984)
  from closes. A bounce makes neighbouring returns covary by -(half spread)^2, if the sides of closing prints are
  independent. Where they are not, with correlation r between neighbours, autocovariance k is
  -h^2 (1 - r)^2 r^(k-1), so r is the ratio of the second to the first (Choi, Salandro and Shastri, On the estimation of
  bid-ask spreads, Journal of Financial and Quantitative Analysis 23, 1988). Where returns have a slow drift besides,
  second differences of the autocovariances take the place of the autocovariances, and the drift cancels.

An estimate is renewed every eighth part of the window, at instants counted from the UTC epoch, and uses only bars that
closed by then. So the future cannot change it, nor can bars from before the window.

Axes: S instruments, T steps, N printed bars of one window.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

_RENEWALS: Final = 8
"""Estimates per window."""
_LEAST_SHARE: Final = 12
"""An estimate needs prints in a twelfth of its window's bars."""
_LAGS: Final = 4
_SIGNIFICANT: Final = 3.0
"""Standard errors from which a dependence of sides, or a drift, counts as one."""
_MOST_CORRELATION: Final = 0.5
"""Bound of the correlation of neighbouring sides, at which Roll is doubled; a noisy ratio has no bound of its own."""


def estimate_half_spread(prices: np.ndarray, ts_close_ns: np.ndarray, *, window_bars: int) -> np.ndarray:
    """Return the larger of both estimates as known at each close.

    Args:
        prices: (4, S, T) float64, open, high, low and close of the bars that printed, otherwise NaN.
        ts_close_ns: (T,) int64, increasing by the width of a bar.
        window_bars: bars of the trailing window.

    Returns:
        (S, T) float64, share of the price; 0 where no bounce is seen, NaN where too few bars printed.
    """
    found = np.full(prices.shape[1:], np.nan)
    if len(ts_close_ns) < 2:
        return found
    every = max(1, window_bars // _RENEWALS)
    closed = ts_close_ns // (ts_close_ns[1] - ts_close_ns[0])
    renewals = np.flatnonzero(closed % every == 0)
    if not len(renewals):
        return found
    for row in range(prices.shape[1]):
        printed = np.flatnonzero(np.isfinite(prices[3, row]))
        logs = np.log(prices[:, row, printed])
        first = np.searchsorted(printed, renewals - window_bars, side="right")
        stop = np.searchsorted(printed, renewals, side="right")
        for at, until, low, high in zip(
            renewals, [*renewals[1:], len(ts_close_ns)], first, stop, strict=True
        ):
            if high - low >= max(_LAGS + 2, window_bars // _LEAST_SHARE):
                window = logs[:, low:high]
                found[row, at:until] = max(edge(window), roll(window[3]))
    return found


def edge(prices: np.ndarray) -> float:
    """Return the half spread by EDGE as a share of the price; 0 where it is undefined or negative.

    Args:
        prices: (4, N) float64, logarithms of open, high, low and close; an open may be NaN.
    """
    opened, high, low = prices[:3, 1:]
    high_before, low_before, close_before = prices[1:, :-1]
    middle, middle_before = (high + low) / 2, (high_before + low_before) / 2
    # 1. A bar without any movement says nothing; the others show how often a price is at the end of the range.
    moved = (high != low) | (low != close_before)
    known = np.isfinite(opened)
    n_moved, n_known = int(moved.sum()), int(known.sum())
    if n_moved < 2 or n_known < 2:
        return 0.0
    at_open = (moved & (opened != high))[known].mean() + (moved & (opened != low))[known].mean()
    at_close = (moved & (close_before != high_before)).mean() + (moved & (close_before != low_before)).mean()
    if at_open == 0 or at_close == 0:
        return 0.0
    # 2. Both moments of the squared spread, from returns without their mean.
    share = n_moved / len(moved)
    by_open, by_close, overnight = middle - opened, middle - close_before, opened - close_before
    by_open_free = by_open - np.nanmean(by_open) / share * moved
    by_close_free = by_close - by_close.mean() / share * moved
    overnight_free = overnight - np.nanmean(overnight) / share * moved
    back_open, back_close = opened - middle_before, close_before - middle_before
    moments = np.stack(
        [
            -4 / at_open * by_open_free * back_open - 4 / at_close * by_close_free * back_close,
            -4 / at_open * by_open_free * overnight - 4 / at_close * overnight_free * back_close,
        ]
    )
    # 3. Their mean, each weighted by the variance of the other, unless the second shows alternating sides.
    first, second = np.nanmean(moments, axis=1)
    excess = moments[1] - moments[0]
    if second - first > _SIGNIFICANT * np.nanstd(excess) / math.sqrt(n_known):
        return math.sqrt(max(0.0, float(first))) / 2
    var_first, var_second = np.nanmean(moments**2, axis=1) - np.array([first, second]) ** 2
    total = var_first + var_second
    squared = (var_second * first + var_first * second) / total if total > 0 else (first + second) / 2
    return math.sqrt(max(0.0, float(squared))) / 2


def roll(close: np.ndarray) -> float:
    """Return the half spread by Roll as a share of the price, with the sides' dependence; 0 without a bounce.

    Args:
        close: (N,) float64, logarithms of closing prints.
    """
    moves = np.diff(close)
    moves = moves - moves.mean()
    count = len(moves)
    covariance = np.array([moves[lag:] @ moves[: count - lag] / count for lag in range(_LAGS + 1)])
    if covariance[0] <= 0:
        return 0.0
    # Standard error of an autocovariance of returns that do depend on one another (Bartlett's formula).
    error = math.sqrt((covariance[0] ** 2 + 2 * (covariance[1:] ** 2).sum()) / count)
    one, two, three, four = covariance[1:]
    if two + three > _SIGNIFICANT * math.sqrt(2) * error:
        one, two, error, power = one - 2 * two + three, two - 2 * three + four, error * math.sqrt(6), 4
    else:
        power = 2
    if one >= 0:
        return 0.0
    is_dependent = abs(two) > _SIGNIFICANT * error
    correlation = min(_MOST_CORRELATION, max(-1.0, two / one)) if is_dependent else 0.0
    return math.sqrt(-one / (1 - correlation) ** power)
