"""Compiled, bit-identical kernels for functions across instruments.

A feature is written in torch, and exported as such; a kernel is only a faster implementation, and a program that does
not reproduce the bits of the feature functions is refused (features/engine/checked.py). Ranks are multiples of one
half, and sums over instruments are sums of integers, so neither the order of the instruments nor the algorithm affects
the last bit.

Constants of other files are passed to the loops as arguments, because the compiled code is cached until this file
changes, and is not invalidated by changes elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from torch import Tensor

from features.ops.cross_section import FIXED, MIN_INSTRUMENTS, market_of, rank_of
from storage.jit import compiled


def fast_rank(x: Tensor, *, out: Tensor) -> None:
    """Write the result of `features.ops.cross_section.rank_of` to `out`."""
    across = np.empty(x.shape[::-1])
    _across(x.numpy(), across)
    _ranks(across, np.argsort(across, axis=1), MIN_INSTRUMENTS, out.numpy())


def fast_market(x: Tensor, *, out: Tensor) -> None:
    """Write the result of `features.ops.cross_section.market_of` to every row of `out`."""
    _means(x.numpy(), FIXED, MIN_INSTRUMENTS, out.numpy())


_TURNED_STEPS: Final = 16
KERNELS: Final[dict[Callable[..., Any], Callable[..., None]]] = {rank_of: fast_rank, market_of: fast_market}


@compiled(nogil=True, error_model="numpy")
def _across(x: Any, across: Any) -> None:
    """Transpose to (T, S); missing values become infinite, so that they sort last."""
    rows, steps = x.shape
    for start in range(0, steps, _TURNED_STEPS):  # few enough that the output stays in the innermost cache
        for row in range(rows):
            for step in range(start, min(start + _TURNED_STEPS, steps)):
                value = x[row, step]
                across[step, row] = value if np.isfinite(value) else np.inf


@compiled(nogil=True, error_model="numpy")
def _ranks(across: Any, order: Any, min_count: int, out: Any) -> None:
    """Write the rank of each value; ties form a run, and get the middle of its first and last place."""
    steps, rows = across.shape
    ranks = np.empty((_TURNED_STEPS, rows))
    for start in range(0, steps, _TURNED_STEPS):
        stop = min(start + _TURNED_STEPS, steps)
        for step in range(start, stop):
            values, places, ranked = across[step], order[step], ranks[step - start]
            count = 0
            for row in range(rows):
                count += values[row] != np.inf
            for row in range(rows):
                ranked[row] = np.nan
            first = 0 if count >= min_count else count
            while first < count:
                last = first
                while last + 1 < count and values[places[last + 1]] == values[places[first]]:
                    last += 1
                rank = (first + last) / 2.0 / (count - 1) - 0.5
                for at in range(first, last + 1):
                    ranked[places[at]] = rank
                first = last + 1
        for row in range(rows):
            for step in range(start, stop):
                out[row, step] = ranks[step - start, row]


@compiled(nogil=True, error_model="numpy")
def _means(x: Any, fixed: float, min_count: int, out: Any) -> None:
    rows, steps = x.shape
    total, count = np.zeros(steps, dtype=np.int64), np.zeros(steps, dtype=np.int64)
    for row in range(rows):
        for step in range(steps):
            value = x[row, step]
            if np.isfinite(value):
                total[step] += np.int64(np.rint(value * fixed))
                count[step] += 1
    for step in range(steps):
        mean = np.float64(total[step]) / fixed / count[step] if count[step] >= min_count else np.nan
        for row in range(rows):
            out[row, step] = mean
