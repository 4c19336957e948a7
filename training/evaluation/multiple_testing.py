"""Tests of several mean returns at once: joint block bootstrap, Romano-Wolf step-down p-values, and PBO.

Returns of the models of one night move together and are correlated over time. Blocks of consecutive periods are drawn
for all models at once, which keeps both. Each draw is studentised by its own error, as is the measured mean: returns
with rare large losses have a skewed t-statistic, and the studentised bootstrap follows the skew, where a plain
bootstrap of means takes a period without such a loss for proof of an edge.

Sources: Politis and Romano, A circular block-resampling procedure for stationary data, 1992; Romano and Wolf, Stepwise
multiple testing as formalized data snooping, Econometrica 73(4), 2005, and Efficient computation of adjusted p-values
for resampling-based stepdown multiple testing, Statistics and Probability Letters 113, 2016; Bailey, Borwein, Lopez de
Prado and Zhu, The probability of backtest overfitting, Journal of Computational Finance 20(4), 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from statistics import NormalDist
from typing import Final

import numpy as np

DRAWS: Final = 10_000
LEAST_TEST_BLOCKS: Final = 20
"""With fewer blocks a p-value has no meaning, and there is no test."""
_PARTS: Final = 16
# Draws at a time, so that the counts of one chunk take at most 2 MB.
_CHUNK: Final = 500
_COUNTS: Final = 1 << 18
_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True)
class MeanTest:
    """One-sided tests of K means, each against a mean of at most 0.

    Args:
        p_values: (K,), adjusted for all K tests; 1 where a series does not vary.
        statistics: (K,) t-statistics; NaN where a series does not vary.
        errors: (K,) standard errors of the means.
        reference: (draws,) largest t-statistic of each draw under the null, ascending.
        blocks: blocks in the series; 0 where there are too few for a test.
    """

    p_values: np.ndarray
    statistics: np.ndarray
    errors: np.ndarray
    reference: np.ndarray
    blocks: int

    @property
    def is_possible(self) -> bool:
        """Whether the series were long enough for a test."""
        return self.blocks >= LEAST_TEST_BLOCKS

    def critical(self, level: float) -> float:
        """Return the t-statistic that one of the series must exceed at a level; infinite without a test."""
        if not len(self.reference):
            return math.inf
        rank = math.ceil((1 - level) * (len(self.reference) + 1)) - 1
        return float(self.reference[rank]) if rank < len(self.reference) else math.inf


def block_length(periods: int, *, least: int) -> int:
    """Return the length of a block: at least `least`, and else the cube root of the number of periods.

    >>> block_length(365, least=1), block_length(60, least=1), block_length(60, least=6)
    (7, 3, 6)
    """
    root = max(1, round(math.cbrt(periods)))
    # Short series keep as many blocks as a test needs, as long as a block may be that short.
    return max(least, min(root, periods // LEAST_TEST_BLOCKS))


def step_down(
    returns: np.ndarray, *, block: int, floor: np.ndarray | None = None, draws: int = DRAWS, seed: int = 0
) -> MeanTest:
    """Test K mean returns against 0 with Romano-Wolf p-values.

    Args:
        returns: (N, K) float64, returns of K models in the same N periods, in order.
        block: periods in a block.
        floor: (K,) least standard errors of the means, for losses that are known and did not happen in these periods.
        draws: resamples of the bootstrap.
        seed: of the bootstrap; equal arguments give equal p-values.

    Raises:
        ValueError: returns are not an (N, K) array of finite values.
    """
    if returns.ndim != 2 or not np.isfinite(returns).all():
        raise ValueError(f"returns have shape {returns.shape}; they must be (N, K) and finite")
    n, k = returns.shape
    blocks = n // block
    if blocks < LEAST_TEST_BLOCKS or k == 0:
        nothing = np.full(k, np.nan)
        return MeanTest(np.ones(k), nothing, nothing, np.empty(0), 0)
    mean = returns.mean(axis=0)
    # Means of all circular blocks, (N, K).
    runs = np.concatenate([np.zeros((1, k)), (np.r_[returns, returns[: block - 1]] - mean).cumsum(axis=0)])
    parts = (runs[block:] - runs[:-block]) / block
    # Variance of a mean over `blocks` blocks; blocks that overlap the whole sample are biased by (blocks - 1) / blocks.
    errors = np.sqrt((parts**2).mean(axis=0) / (blocks - 1))
    varies = errors > 1e-12 * np.maximum(np.abs(mean), np.abs(returns).max(axis=0))
    if floor is not None:
        errors = np.maximum(errors, floor)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistics = np.where(varies, mean / errors, np.nan)
    drawn = np.where(varies, _draw_statistics(parts, blocks, draws, seed), -np.inf)
    p_values = _adjust(statistics, drawn)
    return MeanTest(p_values, statistics, errors, np.sort(drawn.max(axis=1)), blocks)


def _draw_statistics(parts: np.ndarray, blocks: int, draws: int, seed: int) -> np.ndarray:
    """Return t-statistics of resamples, (draws, K), from centred means of blocks, (N, K)."""
    n, k = parts.shape
    both = np.concatenate([parts, parts**2], axis=1)
    out = np.empty((draws, k))
    chunk = max(1, min(_CHUNK, _COUNTS // n))
    for first in range(0, draws, chunk):
        count = min(chunk, draws - first)
        sums = _start_counts(n, blocks, count, seed, first) @ both / blocks
        mean, square = sums[:, :k], sums[:, k:]
        spread = np.sqrt(np.maximum(square - mean**2, 0) / (blocks - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            out[first : first + count] = np.where(mean == 0, 0.0, mean / spread)
    return out


@lru_cache(maxsize=DRAWS // _CHUNK)
def _start_counts(n: int, blocks: int, draws: int, seed: int, first: int) -> np.ndarray:
    """Return how often each of n blocks is drawn, (draws, n) float64."""
    rng = np.random.default_rng((seed, n, blocks, first))
    starts = rng.integers(0, n, size=(draws, blocks)) + n * np.arange(draws)[:, None]
    return np.bincount(starts.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)


def _adjust(statistics: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return step-down p-values: the k-th best is compared with the best of it and all worse ones in each draw."""
    p_values = np.ones(len(statistics))
    order = np.argsort(-np.nan_to_num(statistics, nan=-np.inf), kind="stable")
    order = order[np.isfinite(statistics[order])]
    # From the worst to the best, so that the running maximum covers the models at least as bad.
    running = np.full(len(drawn), -np.inf)
    for column in order[::-1]:
        running = np.maximum(running, drawn[:, column])
        p_values[column] = (1 + np.count_nonzero(running >= statistics[column])) / (len(drawn) + 1)
    p_values[order] = np.maximum.accumulate(p_values[order])
    return p_values


def detectable_sharpe(test: MeanTest, returns: np.ndarray, *, level: float, per_year: float) -> float:
    """Return the smallest annualised Sharpe ratio that a test of these returns detects with 80% power.

    Args:
        test: the test of the returns, alone or among others.
        returns: (N,) returns of the series in question, the test's last column.
        level: of the test.
        per_year: periods in a year.

    Returns:
        The ratio; infinite where there is no test.
    """
    spread = float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
    critical = test.critical(level)
    if spread == 0 or not math.isfinite(critical):
        return math.inf
    return (critical + _NORMAL.inv_cdf(0.8)) * float(test.errors[-1]) / spread * math.sqrt(per_year)


def overfitting_probability(returns: np.ndarray) -> float:
    """Return the share of splits in which the best model of one half is below the median in the other (PBO).

    Args:
        returns: (N, K) returns of K models; NaN is returned for fewer than 2 models or 32 periods.
    """
    n, k = returns.shape
    if k < 2 or n < 2 * _PARTS:
        return math.nan
    rows = returns[: n // _PARTS * _PARTS].reshape(_PARTS, -1, k)
    sums, squares = rows.sum(axis=1), (rows**2).sum(axis=1)
    halves = np.array(list(combinations(range(_PARTS), _PARTS // 2)))
    taken = np.zeros((len(halves), _PARTS))
    np.put_along_axis(taken, halves, 1.0, axis=1)
    half_rows = rows.shape[1] * _PARTS // 2

    def ratios(weights: np.ndarray) -> np.ndarray:
        mean = weights @ sums / half_rows
        variance = np.maximum(weights @ squares / half_rows - mean**2, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            found: np.ndarray = np.where(variance > 0, mean / np.sqrt(variance), 0.0)
        return found

    best = ratios(taken).argmax(axis=1)
    outside = ratios(1 - taken)
    chosen = np.take_along_axis(outside, best[:, None], axis=1)
    # Rank of the chosen model among all, from 1 (worst); ties count half.
    rank = (outside < chosen).sum(axis=1) + ((outside == chosen).sum(axis=1) + 1) / 2
    return float((rank / (k + 1) <= 0.5).mean())
