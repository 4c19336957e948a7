"""Homes without and with an edge, judged by the gate's own functions night after night.

A run is one lineage: K models with daily net returns, whose path is that of the models chosen before each fold. A year
of history is judged once, then one day enters each night. Vectorised over runs, except for the choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from training.evaluation.demotion import cusum, cusum_threshold
from training.evaluation.e_process import (
    LEAST_DAYS,
    alpha_of,
    evidence_path,
    path_risks,
    start_value,
)
from training.evaluation.history import judge_history
from training.evaluation.period_net import PeriodNet
from training.evaluation.selection import choose

DAY_NS: Final = 86_400 * 1_000_000_000
FALSE_PROMOTIONS: Final = 0.05
MEMBERS: Final = ("ridge", "lightgbm", "mlp", "lstm")
FOLD_DAYS: Final = 60
DRAWS: Final = 2_000


@dataclass(frozen=True)
class Profit:
    """Distribution of an edgeless model's daily net, in usual days; `loss` is the largest that the market shows."""

    name: str
    loss: float = 0.0
    tails: float = 0.0

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], correlation: float) -> np.ndarray:
        """Return edgeless returns, (..., K, N), correlated among the models."""
        common_shape = (*shape[:-2], 1, shape[-1])
        if self.loss:
            # Models that hold the same positions lose on the same days.
            is_common = rng.random(shape) < correlation
            odds = 1 / (1 + self.loss)
            hit = np.where(is_common, rng.random(common_shape) < odds, rng.random(shape) < odds)
            return np.where(hit, -self.loss, 1.0) + 0.5 * rng.standard_normal(shape)
        common, own = rng.standard_normal(common_shape), rng.standard_normal(shape)
        returns: np.ndarray = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
        if self.tails:
            # One scale for all models of a day, as volatility is shared: Student's t with `tails` degrees of freedom.
            returns = returns / np.sqrt(rng.chisquare(self.tails, common_shape) / self.tails)
        return returns


NORMAL: Final = Profit("normal")
HEAVY: Final = Profit("heavy tails", tails=3.0)
SKEWED: Final = Profit("losses of 10 days", loss=10.0)
MORE_SKEWED: Final = Profit("losses of 30 days", loss=30.0)


@dataclass(frozen=True)
class Outcome:
    """Evidence of R runs after the history (column 0) and after each night, (R, 1 + nights), and the limit."""

    evidence: np.ndarray
    needed: float

    def promoted(self, nights: int | None = None) -> float:
        """Return the share of runs promoted in the first nights (default: all)."""
        return float(
            (self.evidence[:, : None if nights is None else nights + 1] >= self.needed).any(axis=1).mean()
        )

    def nights(self) -> np.ndarray:
        """Return the night of each promotion, (R,); 0: by history, infinite: never."""
        passed = self.evidence >= self.needed
        return np.where(passed.any(axis=1), passed.argmax(axis=1), np.inf)


def stitched_path(returns: np.ndarray, *, fold_days: int = FOLD_DAYS, seed: int = 0) -> np.ndarray:
    """Return the paths of the models chosen before each fold, (R, N), from returns (R, K, N)."""
    path = np.empty((len(returns), returns.shape[-1]))
    # Folds outside, so that all runs use the same draws of the bootstrap.
    for first in range(0, returns.shape[-1], fold_days):
        part = slice(first, first + fold_days)
        for run, models in enumerate(returns):
            earlier = dict(zip(MEMBERS, models[:, :first], strict=True))
            chosen = choose(earlier, order=MEMBERS, draws=DRAWS, seed=seed).model
            path[run, part] = models[MEMBERS.index(chosen), part]
    return path


def judge_runs(
    returns: np.ndarray,
    *,
    history: int,
    loss: float = 0.0,
    k: int = 1,
    path: np.ndarray | None = None,
) -> Outcome:
    """Judge runs night after night.

    Args:
        returns: (R, K, N) daily net of the models; the first `history` days are judged at once.
        history: days; 0: the evidence starts at 1.
        loss: worst daily loss that the positions show on earlier prices.
        k: number of the lineage in its home.
        path: (R, N) of the chosen models (default: chosen here).
    """
    path = stitched_path(returns) if path is None else path
    alpha = alpha_of(k, false_promotions=FALSE_PROMOTIONS)
    runs, n = path.shape
    starts = np.ones(runs)
    if history:
        for run in range(runs):
            tested = judge_history(
                net_of(path[run, :history], loss),
                returns[run, :, :history].T,
                least_block=1,
                alpha=alpha,
                draws=DRAWS,
            )
            starts[run] = start_value(tested.p_value, alpha)
    worst = np.full(n, loss)
    risk = np.stack(
        [path_risks(row, first=history, volatility=np.zeros(n), worst_loss=worst) for row in path]
    )
    later = evidence_path(starts, path[:, history:], risk, loss)
    return Outcome(np.concatenate([starts[:, None], later], axis=1), 1 / alpha)


def net_of(net: np.ndarray, loss: float = 0.0) -> PeriodNet:
    """Return a path of quoted days."""
    n = len(net)
    return PeriodNet(
        DAY_NS, DAY_NS * np.arange(n), net, np.zeros(n), np.full(n, loss), np.ones(n, dtype=bool)
    )


def edgeless(
    profit: Profit,
    *,
    correlation: float,
    runs: int,
    history: int = 365,
    nights: int = 60,
    seed: int = 0,
    k: int = 1,
) -> Outcome:
    """Judge runs of models without an edge."""
    rng = np.random.default_rng(seed)
    returns = profit.draw(rng, (runs, len(MEMBERS), history + nights), correlation)
    return judge_runs(returns, history=history, loss=profit.loss, k=k)


def with_edge(sharpe: float, *, runs: int, history: int, nights: int, seed: int = 0) -> Outcome:
    """Judge runs whose models all have a daily Sharpe ratio, at a member correlation of 0.5."""
    days = history + nights + (0 if history else LEAST_DAYS)
    returns = NORMAL.draw(np.random.default_rng(seed), (runs, len(MEMBERS), days), 0.5) + sharpe
    # Without a history the first days measure the risk, and nothing is bet on them.
    return judge_runs(returns, history=history)


def nights_to_demotion(
    sharpe: float,
    later: float,
    *,
    measured: float | None = None,
    days: int = 365,
    runs: int,
    nights: int,
    seed: int = 0,
) -> np.ndarray:
    """Return the night of each demotion, (R,), infinite if never.

    Args:
        sharpe: daily Sharpe ratio at promotion.
        later: daily Sharpe ratio afterwards.
        measured: that the gate measured at promotion (default: `sharpe`).
        days: of that measurement.
        runs, nights, seed: of the simulation.
    """
    known = sharpe if measured is None else measured
    net = np.random.default_rng(seed).standard_normal((runs, nights)) + later
    above = cusum(net, known, 1.0) > cusum_threshold(known, days)
    return np.where(above.any(axis=1), above.argmax(axis=1) + 1, np.inf)
