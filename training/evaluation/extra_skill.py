"""Skill beyond price history: how much of a label features explain that earlier prices do not.

A model of earlier prices alone and a model of prices and features predict the same labels. With squared correlations
p^2 and b^2, the features explain the share (b^2 - p^2) / (1 - p^2) of what price history leaves. The bound is from a
delete-one jackknife over blocks of time (Efron and Stein, The Jackknife Estimate of Variance, Annals of Statistics
9(3), 1981), since labels overlap and instruments move together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from training.evaluation.metrics import LEAST_BLOCKS

_NORMAL: Final = NormalDist()
_LEAST_LEFT: Final = 1e-6


@dataclass(frozen=True, slots=True)
class ExtraSkill:
    """Skill of two nested models on the same rows.

    Args:
        prices: correlation of label and prediction from price history alone.
        features: the same with the features added.
        extra: share of what price history leaves that the features explain.
        low: one-sided lower bound of `extra`; NaN with fewer than `LEAST_BLOCKS` blocks.
        blocks: blocks of time.
    """

    prices: float
    features: float
    extra: float
    low: float
    blocks: int


def measure_extra_skill(
    prices: np.ndarray,
    features: np.ndarray,
    label: np.ndarray,
    *,
    fold: np.ndarray,
    block: np.ndarray,
    level: float,
) -> ExtraSkill:
    """Compare predictions of two nested models with labels.

    Args:
        prices, features: (N,) predictions without and with the features.
        label: (N,) float, known.
        fold: (N,) int64; values are standardised within each.
        block: (N,) int64, the block of time of each row.
        level: probability that the bound exceeds the true share.
    """
    p, b, y = (_standardise(values, fold) for values in (prices, features, label))
    _, place = np.unique(block, return_inverse=True)
    terms = (np.ones_like(y), p, b, y, p * p, b * b, y * y, p * y, b * y)
    sums = np.stack([np.bincount(place, weights=term) for term in terms], axis=1)
    total, blocks = sums.sum(axis=0), len(sums)
    ic_prices, ic_features = (float(value[0]) for value in _skills(total[None]))
    extra, low = float(_extra(total[None])[0]), math.nan
    if blocks >= LEAST_BLOCKS:
        without = _extra(total - sums)
        error = math.sqrt((blocks - 1) / blocks * float(((without - without.mean()) ** 2).sum()))
        low = extra - t_quantile(1 - level, blocks - 1) * error
    return ExtraSkill(ic_prices, ic_features, extra, low, blocks)


def t_quantile(probability: float, degrees: int) -> float:
    """Return a quantile of Student's t for at least 10 degrees of freedom, to 0.01 up to a probability of 0.999.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5; importing scipy.stats for it takes 0.7 s.

    >>> round(t_quantile(0.999, 19), 2)
    3.58
    """
    z = _NORMAL.inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / degrees ** (power + 1) for power, term in enumerate(terms))


def correlate(x: np.ndarray, y: np.ndarray) -> float:
    """Return the correlation; 0 where either is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _standardise(values: np.ndarray, fold: np.ndarray) -> np.ndarray:
    standardised = np.zeros(len(values))
    for number in np.unique(fold):
        part = values[fold == number].astype(np.float64)
        if np.ptp(part) > 0:
            standardised[fold == number] = (part - part.mean()) / part.std()
    return standardised


def _skills(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both correlations from sums over rows, (K, 9) each."""
    n, p, b, y, pp, bb, yy, py, by = sums.T
    spread = {
        name: np.maximum(squares - one * one / n, 0.0)
        for name, one, squares in (("p", p, pp), ("b", b, bb), ("y", y, yy))
    }
    found = []
    for name, one, products in (("p", p, py), ("b", b, by)):
        size = np.sqrt(spread[name] * spread["y"])
        found.append(np.divide(products - one * y / n, size, out=np.zeros_like(n), where=size > 1e-9 * n))
    return found[0], found[1]


def _extra(sums: np.ndarray) -> np.ndarray:
    prices, features = (np.clip(skill, 0.0, 1.0) ** 2 for skill in _skills(sums))
    extra: np.ndarray = (features - prices) / np.maximum(1.0 - prices, _LEAST_LEFT)
    return extra
