"""Paired comparison of two models: does one predict, or earn, more than the other on the same rows and periods?

Both figures come from the same resamples of blocks of time, so what moves both models cancels. (B. Efron and
R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8; blocks as in metrics.py and multiple_testing.py.)
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from training.evaluation.metrics import LEAST_BLOCKS, REPLICATES, Estimate
from training.evaluation.multiple_testing import block_length

_TAILS: Final = (0.025, 0.975)


def ic_difference(
    a: np.ndarray, b: np.ndarray, label: np.ndarray, step: np.ndarray, *, block_steps: int, seed: int
) -> Estimate:
    """Return the IC of b less that of a on the same rows, with its 95% interval.

    Args:
        a, b, label: (N,) float64, standardised within their folds.
        step: (N,) int64, bar of each row on one clock.
        block_steps: bars in a block.
        seed: of the bootstrap.

    Returns:
        The difference; NaN where a series is constant, and an interval of NaN with fewer than `LEAST_BLOCKS` blocks.
    """
    if not len(step) or np.ptp(a) == 0 or np.ptp(b) == 0 or np.ptp(label) == 0:
        return Estimate(math.nan, math.nan, math.nan)
    _, block = np.unique((step - step.min()) // block_steps, return_inverse=True)
    terms = (np.ones_like(a), a, b, label, a * a, b * b, label * label, a * label, b * label)
    sums = np.stack([np.bincount(block, weights=term) for term in terms], axis=1)
    value = float(_difference(sums.sum(axis=0)[None])[0])
    count = len(sums)
    if count < LEAST_BLOCKS:
        return Estimate(value, math.nan, math.nan)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), REPLICATES)
    low, high = np.nanquantile(_difference(draws @ sums), _TAILS)
    return Estimate(value, float(low), float(high))


def _difference(sums: np.ndarray) -> np.ndarray:
    n, a, b, y, aa, bb, yy, ay, by = sums.T

    def correlation(x: np.ndarray, xx: np.ndarray, xy: np.ndarray) -> np.ndarray:
        spread = np.maximum(xx - x * x / n, 0) * np.maximum(yy - y * y / n, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            found: np.ndarray = np.where(spread > 0, (xy - x * y / n) / np.sqrt(spread), np.nan)
        return found

    difference: np.ndarray = correlation(b, bb, by) - correlation(a, aa, ay)
    return difference


def mean_difference(a: np.ndarray, b: np.ndarray, *, least_block: int, seed: int) -> Estimate:
    """Return the mean of b less that of a over the same periods, with its 95% interval.

    Args:
        a, b: (P,) float64, net of consecutive periods.
        least_block: least periods in a block, those that horizon and holding cover.
        seed: of the bootstrap.

    Returns:
        The difference a period; an interval of NaN with fewer than `LEAST_BLOCKS` blocks.
    """
    difference = b - a
    n = len(difference)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan)
    value = float(difference.mean())
    block = block_length(n, least=least_block)
    blocks = n // block
    if blocks < LEAST_BLOCKS:
        return Estimate(value, math.nan, math.nan)
    runs = np.concatenate([[0.0], np.r_[difference, difference[: block - 1]].cumsum()])
    parts = (runs[block:] - runs[:-block]) / block
    starts = np.random.default_rng(seed).integers(0, n, size=(REPLICATES, blocks))
    low, high = np.quantile(parts[starts].mean(axis=1), _TAILS)
    return Estimate(value, float(low), float(high))
