"""What is the decayed mean, the extreme or the co-movement of the last n bars, in the same bits however panels are cut?

As in features/ops/rolling.py everything is made by doubling, and ends after n bars: an exponential filter that ran on
for ever would carry the first bar of the panel into every later one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from features.ops.rolling import MIN_SHARE, count_over, shift, sum_over

# Below this share of the squared mean, a variance is what rounding left of a constant.
_CONSTANT: Final = 1e-10


def decayed_sum_over(x: Tensor, bars: int, half_life: float) -> Tensor:
    """Return the sum over each bar and the `bars - 1` before it, weighted by 2^(-age / half_life).

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
    """Return the means of each bar and the `bars - 1` before it, the newer the heavier, over where all parts exist.

    Args:
        parts: each (S, T) float64, NaN where missing.

    Returns:
        Of each part (S, T) float64; NaN where less than `MIN_SHARE` of the whole window's weight is there.
    """
    there = ~torch.isnan(sum(parts[1:], parts[0]))
    known = [there.to(torch.float64), *(torch.where(there, part, 0.0) for part in parts)]
    weight, *sums = (decayed_sum_over(part, bars, half_life) for part in known)
    whole = math.fsum(2.0 ** (-age / half_life) for age in range(bars))
    # A hair below, so that the order of the additions cannot decide at the limit itself.
    is_enough = weight >= (MIN_SHARE - 1e-9) * whole
    return [torch.where(is_enough, part / weight, math.nan) for part in sums]


def max_over(x: Tensor, bars: int) -> Tensor:
    """Return the greatest of what is there of each bar and the `bars - 1` before it.

    Args:
        x: (S, T) float64, NaN where missing.

    Returns:
        (S, T) float64; -inf where nothing is there, or all lies before the panel.
    """
    part = torch.where(torch.isnan(x), -math.inf, x)
    span = 1
    while 2 * span <= bars:
        part = torch.maximum(part, shift(part, span, fill=-math.inf))
        span *= 2
    # Two spans that overlap: a maximum may count a bar twice.
    return torch.maximum(part, shift(part, bars - span, fill=-math.inf))


def moments_over(x: Tensor, y: Tensor, bars: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return covariance and both variances of the pairs that exist in each bar and the `bars - 1` before it.

    Args:
        x, y: (S, T) float64, NaN where missing; either may be (1, T).

    Returns:
        cov(x, y), var(x), var(y), each (S, T) float64; NaN where fewer than `MIN_SHARE` of the pairs exist, or
        a variance is no more than rounding.
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
