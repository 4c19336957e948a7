"""Sharpe ratios as a range, with figures of the papers and of made series."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.metrics import deflated_sharpe, sharpe
from training.evaluation.sharpe_range import (
    effective_periods,
    effective_trials,
    least_periods,
    sharpe_range,
)


def series(n: int, k: int, *, correlation: float, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    shared, own = draw.standard_normal((n, 1)), draw.standard_normal((n, k))
    return math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own


@pytest.mark.parametrize(
    ("correlation", "least", "most"), [(0.0, 7.5, 8.0), (0.5, 2.3, 3.2), (0.999, 1.0, 1.01)]
)
def test_correlated_candidates_count_as_fewer_trials(correlation: float, least: float, most: float) -> None:
    """The participation ratio of K equally correlated series is K / (1 + (K - 1) rho^2): 2.9 for 8 at 0.5."""
    found = effective_trials(series(5_000, 8, correlation=correlation))
    assert least <= found <= most


def test_equal_and_constant_candidates_are_one_trial() -> None:
    one = series(50, 1, correlation=0.0)
    assert effective_trials(np.hstack([one, one, np.zeros((50, 1))])) == pytest.approx(1.0)
    assert effective_trials(np.zeros((50, 3))) == 1.0


def test_autocorrelated_returns_have_fewer_independent_periods() -> None:
    noise = np.random.default_rng(3).standard_normal(20_000)
    assert effective_periods(noise) == pytest.approx(20_000, rel=0.1)
    smooth = np.convolve(noise, np.ones(3) / 3, "valid")
    # A mean of three independent values has a third of them; Bartlett's weights see a little more.
    assert 1 / 3 <= effective_periods(smooth) / len(smooth) < 0.45
    assert effective_periods(-np.diff(noise)) == len(noise) - 1, "never more than there are"


@given(st.floats(0.02, 1.0), st.floats(-1.0, 0.5), st.floats(3.0, 9.0))
def test_the_least_number_of_periods_proves_a_ratio_with_95_percent(
    ratio: float, skew: float, tails: float
) -> None:
    found = least_periods(ratio, skew=skew, tails=tails)
    # The variance of a ratio, with its denominator as in the probability itself.
    variance = 1 - skew * ratio + (tails - 1) / 4 * ratio**2
    z = ratio * math.sqrt(found - 1) / math.sqrt(variance)
    assert 0.5 * math.erfc(-z / math.sqrt(2)) == pytest.approx(0.95, abs=1e-9)
    assert least_periods(-ratio, skew=skew, tails=tails) == math.inf


def test_least_periods_equal_purgedcv() -> None:
    """purgedcv 0.1.11, min_track_record_length(0.1, 0.0, 0.05, -0.5, 6.0), which rounds up."""
    assert math.ceil(least_periods(0.1, skew=-0.5, tails=6.0)) == MIN_TRACK_RECORD


MIN_TRACK_RECORD = 289


@given(seed=st.integers(0, 500), k=st.integers(1, 6), trials=st.integers(6, 40))
def test_the_formula_is_that_of_the_report_and_the_range_holds_all(seed: int, k: int, trials: int) -> None:
    candidates = series(120, k, correlation=0.3, seed=seed) + 0.1
    found = sharpe_range(candidates[:, 0], candidates, trials=trials)
    ratios = np.array([sharpe(column) for column in candidates.T])
    assert found.formula == pytest.approx(deflated_sharpe(candidates[:, 0], ratios, trials=trials))
    assert 1.0 <= found.independent_trials <= trials + 1e-9
    assert found.independent_periods <= found.periods
    for value in (found.formula, found.effective_trials, found.autocorrelated):
        assert 0.0 <= value <= 1.0


def test_too_few_or_constant_returns_have_no_range() -> None:
    for returns in (np.ones(5), np.zeros(50)):
        found = sharpe_range(returns, returns[:, None], trials=3)
        assert math.isnan(found.formula)
        assert found.least_periods == math.inf
