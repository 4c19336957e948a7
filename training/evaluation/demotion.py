"""Demotion of a champion that has lost its edge: a one-sided CUSUM on its daily net return.

The statistic adds up the log-likelihood ratio of a mean of -mu against +mu, and is never below 0 (Page, Continuous
inspection schemes, Biometrika 41, 1954; Lorden 1971: no rule finds a change sooner at the same rate of false alarms).
It depends on mu and sigma only through their ratio, the daily Sharpe ratio at promotion. So does its threshold, but for
the error of that ratio: a champion whose ratio was measured too high must not be demoted for it, so the threshold is
found over all true ratios that the days of the measurement allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

HORIZON_DAYS: Final = 120
FALSE_ALARMS: Final = 0.05
_PATHS: Final = 20_000


@dataclass(frozen=True, slots=True)
class EdgeMonitor:
    """Mean and deviation of the daily net at promotion, and the number of days that they were measured on."""

    mu: float
    sigma: float
    days: int

    def __post_init__(self) -> None:
        if not (self.mu > 0 and self.sigma > 0 and self.days > 1):
            raise ValueError(f"{self}: mean and deviation must be positive, and measured on two days or more")

    @property
    def threshold(self) -> float:
        """The statistic above which the champion is demoted."""
        return cusum_threshold(round(self.mu / self.sigma, 3), self.days)

    def statistic(self, net: np.ndarray) -> np.ndarray:
        """Return the statistic after each day, (..., N), of the net of days since promotion."""
        return cusum(net, self.mu, self.sigma)


def cusum(net: np.ndarray, mu: float | np.ndarray, sigma: float | np.ndarray) -> np.ndarray:
    """Return S = max(0, S - 2 mu x / sigma^2) after each day, (..., N), from S = 0.

    Args:
        net: (..., N) daily net.
        mu, sigma: mean and deviation at promotion, numbers or (...) arrays.
    """
    steps = -2 * net * (np.asarray(mu) / np.square(sigma))[..., None]
    sums = steps.cumsum(axis=-1)
    lowest = np.minimum(np.minimum.accumulate(sums, axis=-1), 0.0)
    statistic: np.ndarray = sums - lowest
    return statistic


@lru_cache(maxsize=64)
def cusum_threshold(daily_sharpe: float, days: int) -> float:
    """Return the threshold that 5% of champions with an unchanged edge exceed within 120 days.

    Args:
        daily_sharpe: mean over deviation of the daily net, as measured.
        days: of the measurement, whose error is about one over their root.
    """
    rng = np.random.default_rng(20_250_101)
    true = daily_sharpe + rng.standard_normal((_PATHS, 1)) / math.sqrt(days)
    net = rng.standard_normal((_PATHS, HORIZON_DAYS)) + true
    return float(np.quantile(cusum(net, daily_sharpe, 1.0).max(axis=-1), 1 - FALSE_ALARMS))
