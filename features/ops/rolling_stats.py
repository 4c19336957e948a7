"""Rolling decayed means, maxima and covariances, bit-identical wherever the panel begins.

As in features/ops/rolling.py, windows are built by doubling and end after n bars: an unbounded exponential filter
would carry the first bar of the panel into every later one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from features.ops.rolling import MIN_SHARE, count_over, shift, sum_over

# Below this share of the squared mean, a variance is rounding error of a constant.
_CONSTANT: Final = 1e-10


def decayed_sum_over(x: Tensor, bars: int, half_life: float) -> Tensor:
    """Return the rolling sum over `bars` bars, weighted by 2^(-age / half_life).

    Args:
        x: (S, T) float64, without NaN.
        bars: at least 1.
        half_life: in bars.
    """
    # part[:, t] is the weighted sum over the `span` bars up to t; total[:, t] over the newest `covered`.
    part, total, covered, span = x, torch.zeros_like(x), 0, 1
    while True:
        if bars & span:
            total = total + 2.0 ** (-covered / half_life) * shift(part, covered, fill=0.0)
            covered += span
        if 2 * span > bars:
            return total
        part = part + 2.0 ** (-span / half_life) * shift(part, span, fill=0.0)
        span *= 2


def decayed_means_over(parts: Sequence[Tensor], bars: int, half_life: float) -> list[Tensor]:
    """Return exponentially weighted rolling means over `bars` bars, using only bars where all parts are present.

    Args:
        parts: each (S, T) float64, NaN where missing.

    Returns:
        For each part (S, T) float64; NaN where less than `MIN_SHARE` of the window's total weight is present.
    """
    present = ~torch.isnan(sum(parts[1:], parts[0]))
    known = [present.to(torch.float64), *(torch.where(present, part, 0.0) for part in parts)]
    weight, *sums = (decayed_sum_over(part, bars, half_life) for part in known)
    whole = math.fsum(2.0 ** (-age / half_life) for age in range(bars))
    # Slightly below the limit, so that the order of the additions cannot decide at the limit itself.
    is_enough = weight >= (MIN_SHARE - 1e-9) * whole
    return [torch.where(is_enough, part / weight, math.nan) for part in sums]


def max_over(x: Tensor, bars: int) -> Tensor:
    """Return the rolling maximum of the present values over `bars` bars, this one included.

    Args:
        x: (S, T) float64, NaN where missing.

    Returns:
        (S, T) float64; -inf where nothing is present, or the window lies before the panel.
    """
    part = torch.where(torch.isnan(x), -math.inf, x)
    span = 1
    while 2 * span <= bars:
        part = torch.maximum(part, shift(part, span, fill=-math.inf))
        span *= 2
    # Two overlapping spans: a maximum may count a bar twice.
    return torch.maximum(part, shift(part, bars - span, fill=-math.inf))


def moments_over(x: Tensor, y: Tensor, bars: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rolling covariance and both variances of the complete pairs over `bars` bars, this one included.

    Args:
        x, y: (S, T) float64, NaN where missing; either may be (1, T).

    Returns:
        cov(x, y), var(x), var(y), each (S, T) float64; NaN where fewer than `MIN_SHARE` of the pairs are complete, or
        where a variance is only rounding error.
    """
    both = ~torch.isnan(x) & ~torch.isnan(y)
    x, y = torch.where(both, x, 0.0), torch.where(both, y, 0.0)
    count = count_over(both, bars)
    count = torch.where(count >= MIN_SHARE * bars, count.to(torch.float64), math.nan)
    mean_x, mean_y, product, square_x, square_y = (
        sum_over(part, bars) / count for part in (x, y, x * y, x * x, y * y)
    )
    return (
        product - mean_x * mean_y,
        _variance(square_x, square_x - mean_x * mean_x),
        _variance(square_y, square_y - mean_y * mean_y),
    )


def _variance(square: Tensor, variance: Tensor) -> Tensor:
    return torch.where(variance > _CONSTANT * square, variance, math.nan)
