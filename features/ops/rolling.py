"""How is something summed, counted or carried over the last n bars, with the same bits wherever the panel is cut?

Every window here is built by doubling: a sum over 2n bars is two sums over n bars, so the order of the
additions depends on the window alone. A running sum (`cumsum`) would carry its rounding from the first bar of
the panel into every later one, and a cut panel would differ from a whole one in the last bits.
It also costs little: log2(n) passes for a window of n bars.

Tensors are symbol-major, `(S, T)`. A missing value is NaN, so arithmetic passes it on by itself; a mask that
is forgotten then shows as a hole and not as a zero. Nothing here looks ahead.
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
"""A window counts as observed where at least this share of its bars was."""


def shift(x: Tensor, bars: int, *, fill: float = math.nan) -> Tensor:
    """Return what `x` was `bars` bars earlier; `fill` where that lies before the panel.

    Everything here that looks back does it by this function, and through torch's own protocol: so whoever writes a
    plan (features/engine/tracing.py) sees a shift as one step, and a live stream can remember instead of computing
    again.

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
    """Return the sum over each bar and the `bars - 1` before it; what lies before the panel counts as zero.

    Args:
        x: (S, T), without NaN.
        bars: at least 1.
    """
    # `part` is the sum over the `span` bars up to each bar. The window is made of such parts, the shortest first
    # in time; `covered` of its bars are in `total`.
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
    """Return how many of each bar and the `bars - 1` before it are true.

    Args:
        mask: (S, T) bool.

    Returns:
        (S, T) int32; exact.
    """
    return sum_over(mask.to(torch.int32), bars)


def observed_over(observed: Tensor, bars: int) -> Tensor:
    """Return whether at least `MIN_SHARE` of each bar and the `bars - 1` before it was observed.

    Args:
        observed: (S, T) bool.
    """
    return count_over(observed, bars) >= _least(bars)


def mean_over(x: Tensor, bars: int) -> Tensor:
    """Return the mean of what is there of each bar and the `bars - 1` before it.

    Args:
        x: (S, T) float64, NaN where missing.

    Returns:
        (S, T) float64; NaN where fewer than `MIN_SHARE` of the bars are there.
    """
    return means_over([x], bars)[0]


def means_over(parts: Sequence[Tensor], bars: int) -> list[Tensor]:
    """Return the means of each bar and the `bars - 1` before it, over the bars where all parts are there.

    Args:
        parts: each (S, T) float64, NaN where missing.

    Returns:
        Of each part (S, T) float64; NaN where all are there on fewer than `MIN_SHARE` of the bars.
    """
    there = reduce(and_, (~torch.isnan(part) for part in parts))
    count = count_over(there, bars)
    sums = (sum_over(torch.where(there, part, 0.0), bars) for part in parts)
    return [torch.where(count >= _least(bars), part / count, math.nan) for part in sums]


def carry(x: Tensor, through: Tensor, bars: int, *, ageing: float = 0.0) -> Tensor:
    """Return the last value within `bars` bars, provided that every bar since lets it through.

    This is how a last price survives quiet bars and nothing else: at a bar that is neither priced nor quiet
    the chain ends, and a later quiet bar has no price either.

    Args:
        x: (S, T) float64, NaN where there is no value.
        through: (S, T) bool; true where nothing can have changed (and `x` is NaN).
        bars: how many bars may be looked at, this one among them; a power of two.
        ageing: what a value gains for each bar that it is carried.
    """
    span = 1
    while span < bars:
        older = shift(x, span) + ageing * span if ageing else shift(x, span)
        x = torch.where(through, older, x)
        through = through & shift(through, span, fill=0.0)
        span *= 2
    return x


def _least(bars: int) -> int:
    return math.ceil(MIN_SHARE * bars)
