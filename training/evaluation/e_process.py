"""Sequential evidence of a lineage: an e-process on its daily net return.

An e-process starts at most at 1 in the mean and is multiplied by a bet on every later day. Without an edge it exceeds
1/alpha at any time with a probability of at most alpha (Ville's inequality), so it may be read every night. The k-th
lineage that a home judges gets alpha = A / (k (k + 1)), which sums to A over all lineages ever.

Sources: Ville 1939; Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS B 86(1),
2024; Vovk and Wang, E-values: calibration, combination and applications, Annals of Statistics 49(3), 2021 (the
calibrator 1/(4 sqrt p) is half of their 1/(2 sqrt p)).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

LAMBDAS: Final = (0.05, 0.1, 0.2, 0.3)
"""Shares bet on each day; the evidence is their mean, so none has to be chosen."""
LEAST_DAYS: Final = 20
"""Days whose scatter measures the risk; before them nothing is bet."""
_MOST_GAIN: Final = 3.0
_LEAST_FACTOR: Final = 0.05
LOSS_SHARE: Final = 1 / 5
"""Part of the worst known daily loss that counts as risk."""


def alpha_of(k: int, *, false_promotions: float) -> float:
    """Return the level of the k-th lineage of a home, counted from 1.

    >>> alpha_of(1, false_promotions=0.05), alpha_of(4, false_promotions=0.05)
    (0.025, 0.0025)
    """
    if k < 1:
        raise ValueError(f"lineage number {k}: they are counted from 1")
    return false_promotions / (k * (k + 1))


def start_value(p_value: float | None, alpha: float) -> float:
    """Return the evidence of a p-value of the history, whose mean without an edge is at most 1; 1 without a history.

    Half of it is 1/alpha if p is at most alpha/2, the other half falls as p rises.
    """
    if p_value is None:
        return 1.0
    return (1 / alpha if p_value <= alpha / 2 else 0.0) + 1 / (4 * math.sqrt(p_value))


def path_risks(net: np.ndarray, *, first: int, volatility: np.ndarray, worst_loss: np.ndarray) -> np.ndarray:
    """Return the risk of each day from `first` on, (N - first,), in units of net.

    It is the largest of the scatter of all earlier days, the volatility of the positions held, and a fifth of the worst
    daily loss that these positions would have had. Small gains with rare large losses look riskless by their scatter
    until the first loss; the price history knows it. It is infinite with fewer than `LEAST_DAYS` earlier days, so that
    nothing is bet.

    Args:
        net: (N,) net of all days.
        first: number of the first day whose risk is asked for.
        volatility: (N,) of the positions held, from the price history known by then.
        worst_loss: (N,) of the same positions and history, positive.
    """
    days = np.arange(first, len(net))
    # Running sums, so that a year of days costs one pass; less the first day, for the sake of their last digits.
    centred = net - (net[0] if len(net) else 0.0)
    sums = np.r_[0.0, centred.cumsum()][days]
    squares = np.r_[0.0, (centred**2).cumsum()][days]
    with np.errstate(divide="ignore", invalid="ignore"):
        scatter = np.sqrt(np.maximum(squares - sums**2 / days, 0) / (days - 1))
    ahead = np.maximum(np.nan_to_num(volatility[first:]), LOSS_SHARE * np.nan_to_num(worst_loss[first:]))
    risks: np.ndarray = np.where(days < LEAST_DAYS, np.inf, np.maximum(scatter, ahead))
    return risks


def bet_factors(net: np.ndarray, risk: np.ndarray, worst_loss: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the factor of each day and each share bet, (..., N, L); 1 where the risk is infinite or 0.

    z = net / risk is clipped at +3 and not below: a clipped loss would make an edgeless path look good. For the same
    reason no share is larger than the worst known loss allows: it would leave the least factor, and nothing be clipped.

    Args:
        net: (..., N) net of the days.
        risk: (..., N) risk of each, known before it.
        worst_loss: (..., N) worst daily loss that the positions would have had, known before it.
    """
    worst = np.broadcast_to(np.nan_to_num(worst_loss), np.shape(net))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where((risk > 0) & np.isfinite(risk), net / risk, 0.0)
        most = np.where(worst > 0, (1 - _LEAST_FACTOR) * risk / worst, np.inf)
    shares = np.minimum(np.array(LAMBDAS), most[..., None])
    factors: np.ndarray = np.maximum(1 + shares * np.minimum(z, _MOST_GAIN)[..., None], _LEAST_FACTOR)
    return factors


def evidence_path(
    start: np.ndarray | float, net: np.ndarray, risk: np.ndarray, worst_loss: np.ndarray | float = 0.0
) -> np.ndarray:
    """Return the evidence after each day, (..., N).

    Args:
        start: (...) evidence before the first day.
        net, risk, worst_loss: (..., N) of the days in order, as in `bet_factors`.
    """
    products = bet_factors(net, risk, worst_loss).cumprod(axis=-2).mean(axis=-1)
    path: np.ndarray = np.asarray(start, dtype=np.float64)[..., None] * products
    return path
