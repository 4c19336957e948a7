"""Joint block bootstrap, Romano-Wolf p-values and PBO: size, power, and laws of the adjusted p-values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.evaluation.metrics import deflated_sharpe, sharpe
from training.evaluation.multiple_testing import (
    block_length,
    detectable_sharpe,
    overfitting_probability,
    step_down,
)

DRAWS = 1_000


def normal(n: int, k: int, *, seed: int, edge: float | list[float] = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, k)) + np.asarray(edge)


def test_p_value_of_one_series_is_that_of_students_t() -> None:
    returns = normal(400, 1, seed=3, edge=0.1)
    found = step_down(returns, block=1, draws=20_000)
    t = float(returns.mean() / returns.std(ddof=1) * 20)
    assert found.statistics[0] == pytest.approx(t, rel=1e-9)
    # Normal tail of t; 20,000 draws measure a p-value of 2% within 0.3%, and the bootstrap adds as much.
    assert found.p_values[0] == pytest.approx(math.erfc(t / math.sqrt(2)) / 2, abs=0.006)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_one_of_many_edgeless_series_is_rarely_found(correlation: float) -> None:
    found = 0
    for run in range(200):
        rng = np.random.default_rng(run)
        own = rng.standard_normal((120, 6))
        returns = math.sqrt(correlation) * own[:, :1] + math.sqrt(1 - correlation) * own
        found += step_down(returns, block=3, draws=400).p_values.min() <= 0.05
    # 5% of 200 and two standard errors.
    assert 1 <= found <= 16


def test_rare_losses_do_not_pass_for_an_edge() -> None:
    """A gain of 1 a day and a loss of 30 on one day in 31 earns nothing; a plain t-test finds an edge too often."""
    studentised = plain = 0
    for run in range(200):
        rng = np.random.default_rng(run)
        returns = np.where(rng.random((200, 1)) < 1 / 31, -30.0, 1.0) + 0.5 * rng.standard_normal((200, 1))
        found = step_down(returns, block=4, draws=400)
        studentised += found.p_values[0] <= 0.0125
        plain += found.statistics[0] > 2.24
    # 2.5 of 200 are due at a level of 1.25%.
    assert plain >= 10
    assert studentised <= 7


def test_serial_correlation_needs_blocks() -> None:
    single = blocks = 0
    for run in range(200):
        noise = np.random.default_rng(run).standard_normal((244, 1))
        returns = noise[4:] + noise[3:-1] + noise[2:-2] + noise[1:-3] + noise[:-4]
        single += step_down(returns, block=1, draws=400).p_values[0] <= 0.05
        blocks += step_down(returns, block=12, draws=400).p_values[0] <= 0.05
    assert single > 40
    assert blocks <= 24


def test_step_down_reaches_the_second_best() -> None:
    """Once the best is rejected, it no longer raises the bar for the others."""
    returns = normal(250, 20, seed=5, edge=[0.5, 0.12] + [0.0] * 18)
    found = step_down(returns, block=1, draws=5_000)
    single_step = (1 + np.count_nonzero(found.reference >= found.statistics[1])) / 5_001
    assert found.p_values[0] < found.p_values[1] <= single_step


def test_p_values_keep_their_order_and_seed() -> None:
    returns = normal(100, 5, seed=7, edge=[0, 0.1, 0.2, 0.3, 0.4])
    found = step_down(returns, block=2, draws=DRAWS, seed=4)
    order = np.argsort(-found.statistics)
    assert (np.diff(found.p_values[order]) >= 0).all()
    assert (found.p_values > 0).all()
    again = step_down(returns, block=2, draws=DRAWS, seed=4)
    assert (again.p_values == found.p_values).all()
    scaled = step_down(returns * 1e-9, block=2, draws=DRAWS, seed=4)
    assert scaled.p_values == pytest.approx(found.p_values)


def test_series_that_does_not_vary_proves_nothing() -> None:
    returns = np.stack([np.zeros(100), np.full(100, 0.3), normal(100, 1, seed=1, edge=1.0)[:, 0]], axis=1)
    found = step_down(returns, block=1, draws=DRAWS)
    assert found.p_values.tolist() == [1.0, 1.0, 1 / (DRAWS + 1)]


def test_fewer_than_twenty_blocks_are_no_test() -> None:
    assert step_down(normal(57, 2, seed=1, edge=9.0), block=3).p_values.tolist() == [1.0, 1.0]
    assert not step_down(normal(59, 2, seed=1), block=3).is_possible
    assert step_down(normal(60, 2, seed=1), block=3, draws=100).is_possible
    assert step_down(np.empty((0, 2)), block=1).p_values.tolist() == [1.0, 1.0]


def test_returns_must_be_finite() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 1\); they must be \(N, K\) and finite"):
        step_down(np.array([[1.0], [np.nan]]), block=1)


@pytest.mark.parametrize(
    ("periods", "least", "expected"), [(365, 1, 7), (8_760, 2, 21), (60, 1, 3), (60, 6, 6), (5, 1, 1)]
)
def test_block_is_long_where_the_series_allows_it(periods: int, least: int, expected: int) -> None:
    assert block_length(periods, least=least) == expected


def test_known_loss_raises_the_error() -> None:
    returns = normal(100, 1, seed=2, edge=0.4)
    free = step_down(returns, block=1, draws=DRAWS)
    bounded = step_down(returns, block=1, floor=np.array([0.5]), draws=DRAWS)
    assert bounded.errors[0] == 0.5
    assert bounded.p_values[0] > free.p_values[0]


def test_detectable_sharpe_is_found_with_the_stated_power() -> None:
    """At the ratio that the test names, four of five series are found."""
    base = normal(365, 3, seed=11)
    named = detectable_sharpe(
        step_down(base, block=1, draws=DRAWS), base[:, -1], level=0.05, per_year=365
    ) / math.sqrt(365)
    found = 0
    for run in range(100):
        returns = normal(365, 3, seed=1_000 + run, edge=[0.0, 0.0, named])
        found += step_down(returns, block=1, draws=400).p_values[-1] <= 0.05
    assert 70 <= found <= 90
    short = step_down(base[:10], block=1)
    assert detectable_sharpe(short, base[:10, -1], level=0.05, per_year=365) == math.inf


def test_deflated_sharpe_falls_with_bad_siblings_and_the_p_value_does_not() -> None:
    """A true Sharpe ratio of 0.2 a period over 500 periods, among siblings that are good, at zero, or bad."""
    deflated, found = {}, {}
    for name, siblings in {"good": [0.2] * 4, "zero": [0.0] * 4, "bad": [0.0, 0.0, -0.2, -0.2]}.items():
        ratios, hits = [], 0
        for run in range(40):
            returns = normal(500, 5, seed=run, edge=[*siblings, 0.2])
            trials = np.array([sharpe(column) for column in returns.T])
            ratios.append(deflated_sharpe(returns[:, -1], trials, trials=5) >= 0.95)
            hits += step_down(returns, block=1, draws=400).p_values[-1] <= 0.0125
        deflated[name], found[name] = np.mean(ratios), hits / 40
    assert deflated["good"] > 0.8
    assert deflated["bad"] < 0.1
    assert min(found.values()) > 0.9


def test_overfitting_is_even_odds_without_skill_and_none_with_it() -> None:
    luck = [overfitting_probability(normal(320, 8, seed=run)) for run in range(20)]
    assert np.mean(luck) == pytest.approx(0.5, abs=0.12)
    assert overfitting_probability(normal(320, 4, seed=1, edge=[0, 0, 0, 1.0])) == 0
    assert math.isnan(overfitting_probability(normal(320, 1, seed=1)))
    assert math.isnan(overfitting_probability(normal(31, 4, seed=1)))
