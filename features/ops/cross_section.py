"""Ranks and means across instruments, independent of their order."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.overrides import handle_torch_function, has_torch_function_unary

MIN_INSTRUMENTS: Final = 3
"""With fewer, a rank would only be a sign, and a market mean little more than the other instrument."""
# Log returns in fixed point: 2^-40 is 1e-12, and 2^63 leaves room for 10^6 instruments at |return| below 8.
FIXED: Final = 2.0**40


def rank_of(x: Tensor) -> Tensor:
    """Return the rank of each instrument at each step, -0.5 to 0.5; ties share the mean rank.

    Args:
        x: (S, T) float64, NaN where missing.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(rank_of, (x,), x)
    present = torch.isfinite(x)
    count = present.sum(dim=0)
    # Missing values sort last, so they do not affect the ranks of others.
    across = torch.where(present, x, math.inf).t().contiguous()
    ordered, order = across.sort(dim=1)
    # Ties form a run; each gets the middle of the run's first and last place.
    at = torch.arange(across.shape[1], device=x.device).expand_as(order)
    begins = ordered != pad(ordered, (1, 0), value=math.nan)[:, :-1]
    ends = ordered != pad(ordered, (0, 1), value=math.nan)[:, 1:]
    first = torch.where(begins, at, 0).cummax(dim=1).values
    last = torch.where(ends, at, across.shape[1]).flip(1).cummin(dim=1).values.flip(1)
    place = torch.zeros_like(order).scatter(1, order, first + last).t().to(torch.float64) / 2.0
    return torch.where(present & (count >= MIN_INSTRUMENTS), place / (count - 1) - 0.5, math.nan)


def market_of(x: Tensor) -> Tensor:
    """Return the mean over the instruments that have a value, each rounded to 1 / `FIXED`, (1, T).

    It is NaN where fewer than `MIN_INSTRUMENTS` have a value.

    Args:
        x: (S, T) float64, |x| below 8, NaN where missing.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(market_of, (x,), x)
    present = torch.isfinite(x)
    count = present.sum(dim=0, keepdim=True)
    fixed = torch.round(torch.where(present, x, 0.0) * FIXED).to(torch.int64)
    mean = fixed.sum(dim=0, keepdim=True).to(torch.float64) / FIXED / count
    return torch.where(count >= MIN_INSTRUMENTS, mean, math.nan)
