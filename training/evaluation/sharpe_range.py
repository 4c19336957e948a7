"""A Sharpe ratio as a range: how much its proof depends on what is assumed of trials and of time.

The deflated Sharpe ratio is a probability that hinges on the number of independent trials and on independent periods.
Three figures of the same returns bound what can be said: the formula of 2014 with all trials, one with the number of
trials that the correlation of the candidates leaves, and one with the periods that autocorrelation leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from training.evaluation.metrics import expected_maximum, probabilistic_sharpe, sharpe

_NORMAL: Final = NormalDist()
_LEAST: Final = 10


@dataclass(frozen=True, slots=True)
class SharpeRange:
    """Probabilities that the true Sharpe ratio exceeds the best of trials without skill; NaN where undefined.

    Args:
        formula: all trials, independent periods (Bailey and Lopez de Prado 2014).
        effective_trials: with the number of trials that the correlation of the candidates leaves.
        autocorrelated: the formula with the periods that autocorrelation leaves.
        trials: number of all trials.
        independent_trials: that of the second.
        independent_periods: that of the third.
        periods: in the returns.
        least_periods: periods from which the measured ratio would exceed 0 with 95 % (minimum track-record length);
            infinite for a ratio of at most 0.
    """

    formula: float
    effective_trials: float
    autocorrelated: float
    trials: int
    independent_trials: float
    independent_periods: float
    periods: int
    least_periods: float


def sharpe_range(returns: np.ndarray, candidates: np.ndarray, *, trials: int) -> SharpeRange:
    """Return the range for one series of returns.

    Args:
        returns: (N,) returns of periods that do not overlap.
        candidates: (N, K) returns of all candidates in the same periods.
        trials: number of all trials, at least K.
    """
    n = len(returns)
    if n < _LEAST or returns.std() == 0:
        nan = math.nan
        return SharpeRange(nan, nan, nan, trials, nan, nan, n, math.inf)
    standard = (returns - returns.mean()) / returns.std()
    skew, tails, ratio = float((standard**3).mean()), float((standard**4).mean()), sharpe(returns)
    ratios = np.array([sharpe(column) for column in candidates.T])
    scatter = float(ratios.std(ddof=1)) if len(ratios) > 1 else 0.0
    independent = effective_trials(candidates) / max(candidates.shape[1], 1) * trials
    left = effective_periods(returns)
    null = 1 / math.sqrt(n)  # scatter of ratios of trials without skill

    def probability(benchmark: float, periods: float) -> float:
        return probabilistic_sharpe(ratio, benchmark, periods=max(round(periods), 2), skew=skew, tails=tails)

    return SharpeRange(
        formula=probability(scatter * expected_maximum(trials), n),
        effective_trials=probability(null * expected_maximum(max(round(independent), 1)), n),
        autocorrelated=probability(scatter * expected_maximum(trials), left),
        trials=trials,
        independent_trials=independent,
        independent_periods=left,
        periods=n,
        least_periods=least_periods(ratio, skew=skew, tails=tails),
    )


def effective_trials(candidates: np.ndarray) -> float:
    """Return how many independent series have the correlation of K candidates, from 1 to K.

    It is the square of the sum of the eigenvalues of their correlation over the sum of the squares (participation
    ratio): K for uncorrelated series, 1 for equal ones.

    Args:
        candidates: (N, K); constant columns count for nothing.
    """
    varying = candidates[:, candidates.std(axis=0) > 0]
    if varying.shape[1] < 2:
        return 1.0
    eigenvalues = np.maximum(np.linalg.eigvalsh(np.corrcoef(varying, rowvar=False)), 0.0)
    return float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def effective_periods(returns: np.ndarray) -> float:
    """Return the number of independent periods with the same error of the mean, at most the number there are.

    The autocorrelation counts up to the lag of Newey and West's rule, 4 (N / 100)^(2/9), with Bartlett's weights.
    """
    n = len(returns)
    centred = returns - returns.mean()
    variance = float(centred @ centred)
    if variance == 0:
        return float(n)
    lags = int(4 * (n / 100) ** (2 / 9))
    inflation = 1.0
    for lag in range(1, min(lags, n - 1) + 1):
        inflation += 2 * (1 - lag / (lags + 1)) * float(centred[lag:] @ centred[:-lag]) / variance
    return n / max(inflation, 1.0)


def least_periods(ratio: float, *, skew: float, tails: float, confidence: float = 0.95) -> float:
    """Return the least number of periods that prove a Sharpe ratio above 0; infinite for one of at most 0.

    Bailey and Lopez de Prado, The Sharpe ratio efficient frontier, Journal of Risk 15(2), 2012.

    >>> round(least_periods(0.1, skew=0.0, tails=3.0))
    273
    """
    if ratio <= 0:
        return math.inf
    variance = 1 - skew * ratio + (tails - 1) / 4 * ratio**2
    return 1 + max(variance, 0.0) * (_NORMAL.inv_cdf(confidence) / ratio) ** 2
