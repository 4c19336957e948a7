"""Rolling sums, counts, means and forward fills over the last n bars, bit-identical wherever the panel begins.

Every window is built by doubling: a sum over 2n bars is two sums over n bars, so the order of the additions depends
on the window alone. A running sum (`cumsum`) would carry its rounding from the first bar of the panel into every later
one, and a part of a panel would differ from the whole in the last bits. Doubling is also cheap: log2(n) passes for a
window of n bars.

Tensors are symbol-major, `(S, T)`. A missing value is NaN, which arithmetic propagates, so a forgotten mask shows up as
a hole and not as a zero. Nothing here looks ahead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from operator import and_
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.overrides import handle_torch_function, has_torch_function_unary

MIN_SHARE: Final = 0.8
"""A window counts as observed if at least this share of its bars was."""


def shift(x: Tensor, bars: int, *, fill: float = math.nan) -> Tensor:
    """Return the values of `x` from `bars` bars earlier; `fill` where that lies before the panel.

    Every function here that looks back uses this one, which supports torch's function protocol: tracing
    (features/engine/tracing.py) records a shift as a single node, so a live stream can keep history instead of
    recomputing.

    Args:
        x: (S, T), any dtype.
        bars: at least 0.
    """
    if bars == 0:
        return x
    if has_torch_function_unary(x):
        return handle_torch_function(shift, (x,), x, bars, fill=fill)
    return pad(x, (bars, 0), value=fill)[:, : x.shape[1]]


def sum_over(x: Tensor, bars: int) -> Tensor:
    """Return the rolling sum over `bars` bars, this one included; bars before the panel count as zero.

    Args:
        x: (S, T), without NaN.
        bars: at least 1.
    """
    # `part` is the sum over the `span` bars up to each bar. The window is composed of such parts, the shortest being
    # the oldest; `covered` counts the bars already in `total`.
    part, total, covered, span = x, None, 0, 1
    while True:
        if bars & span:
            covered += span
            piece = shift(part, bars - covered, fill=0.0)
            total = piece if total is None else total + piece
        if total is not None and 2 * span > bars:
            return total
        part = shift(part, span, fill=0.0) + part
        span *= 2


def count_over(mask: Tensor, bars: int) -> Tensor:
    """Return the rolling count of true bars over `bars` bars, this one included.

    Args:
        mask: (S, T) bool.

    Returns:
        (S, T) int32; exact.
    """
    return sum_over(mask.to(torch.int32), bars)


def observed_over(observed: Tensor, bars: int) -> Tensor:
    """Return whether at least `MIN_SHARE` of the last `bars` bars, this one included, was observed.

    Args:
        observed: (S, T) bool.
    """
    return count_over(observed, bars) >= _min_count(bars)


def mean_over(x: Tensor, bars: int) -> Tensor:
    """Return the rolling mean of the present values over `bars` bars, this one included.

    Args:
        x: (S, T) float64, NaN where missing.

    Returns:
        (S, T) float64; NaN where fewer than `MIN_SHARE` of the bars are present.
    """
    return means_over([x], bars)[0]


def means_over(parts: Sequence[Tensor], bars: int) -> list[Tensor]:
    """Return the rolling means of several tensors over `bars` bars, using only bars where all are present.

    Args:
        parts: each (S, T) float64, NaN where missing.

    Returns:
        For each part (S, T) float64; NaN where all are present on fewer than `MIN_SHARE` of the bars.
    """
    present = reduce(and_, (~torch.isnan(part) for part in parts))
    count = count_over(present, bars)
    sums = (sum_over(torch.where(present, part, 0.0), bars) for part in parts)
    return [torch.where(count >= _min_count(bars), part / count, math.nan) for part in sums]


def carry(x: Tensor, through: Tensor, bars: int, *, ageing: float = 0.0) -> Tensor:
    """Forward-fill the last value for up to `bars` bars, through bars that allow it.

    A last price is carried through quiet bars and nothing else: a bar that is neither priced nor quiet ends the chain,
    and later quiet bars have no price either.

    Args:
        x: (S, T) float64, NaN where there is no value.
        through: (S, T) bool; true where the value cannot have changed (and `x` is NaN).
        bars: length of the window, this bar included; a power of two.
        ageing: increment added per carried bar.
    """
    span = 1
    while span < bars:
        older = shift(x, span) + ageing * span if ageing else shift(x, span)
        x = torch.where(through, older, x)
        through = through & shift(through, span, fill=0.0)
        span *= 2
    return x


def _min_count(bars: int) -> int:
    return math.ceil(MIN_SHARE * bars)
