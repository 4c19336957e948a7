"""Figures of other implementations for the same made returns; the commands are in each test.

Newey-West: test_breakdown.py (statsmodels). Rank correlation: test_metrics.py (scipy). Spread: test_spread.py (bidask).
Conformal intervals: test_conformal.py. Minimum track-record length: test_sharpe_range.py (purgedcv).
"""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.metrics import deflated_sharpe, sharpe
from training.evaluation.multiple_testing import overfitting_probability, step_down


def made_returns() -> np.ndarray:
    """Return 256 periods of six models with heavy tails."""
    draw = np.random.default_rng(11)
    drift = np.array([0.0, 5e-4, 1e-3, 1.5e-3, -5e-4, 0.0])
    returns: np.ndarray = draw.standard_t(5, size=(256, 6)) * 0.01 + drift
    return returns


def test_deflated_sharpe_equals_skfolio() -> None:
    """skfolio 1.12.2, measures.deflated_sharpe_ratio(returns[:, 3], ratios), to 1e-12."""
    returns = made_returns()
    ratios = np.array([sharpe(column) for column in returns.T])
    assert deflated_sharpe(returns[:, 3], ratios, trials=6) == pytest.approx(0.8550362944438576, abs=1e-12)


def test_overfitting_probability_equals_purgedcv() -> None:
    """purgedcv 0.1.11, probability_of_backtest_overfitting(returns.T, n_splits=16), to 1e-12."""
    assert overfitting_probability(made_returns()) == pytest.approx(0.1731934731934732, abs=1e-12)


def test_romano_wolf_equals_explicit_loops_over_bootstraps_of_arch() -> None:
    """arch 8.0.0, 20,000 draws of CircularBlockBootstrap(6, returns, seed=5), each studentised by its own 40 blocks.

    The step-down p-values of both have a Monte-Carlo error of up to 0.0025 each; the tolerance is 0.01.
    """
    draw, shared = np.random.default_rng(12), np.random.default_rng(13)
    returns = 0.5 * draw.standard_normal((240, 4)) + 0.5 * shared.standard_normal((240, 1))
    returns = returns * 0.01 + np.array([0.0016, 0.001, 0.0004, -0.0003])
    found = step_down(returns, block=6)
    assert found.statistics == pytest.approx([5.066435713733, 2.273276097516, 1.128369633204, 1.658359501911])
    assert found.p_values == pytest.approx([1e-4, 0.03755, 0.13114, 0.08750], abs=0.01)
