"""Metrics: reference values, the paper's example, and the coverage of intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from training.evaluation.metrics import (
    correlation,
    deflated_sharpe,
    expected_maximum,
    probabilistic_sharpe,
    score_predictions,
    sharpe,
)


def rows(n: int = 600, *, slope: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n)
    return x, slope * x + rng.standard_normal(n), np.arange(n) // 3


def test_scores_equal_their_references() -> None:
    x, y, step = rows()
    score = score_predictions(x, y, step, block_steps=5, seed=1)
    assert score.ic.value == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-9)
    assert score.rank_ic.value == pytest.approx(spearmanr(x, y).statistic, rel=1e-9)
    assert score.r2 == pytest.approx(1 - ((y - x) ** 2).sum() / (y**2).sum())
    assert score.hit_rate == pytest.approx((np.sign(x) == np.sign(y)).mean())


def test_rows_without_a_label_do_not_count() -> None:
    x, y, step = rows()
    holed = y.copy()
    holed[::2] = math.nan
    score = score_predictions(x, holed, step, block_steps=5, seed=1)
    assert score.rows == 300
    assert score == score_predictions(x[1::2], y[1::2], step[1::2], block_steps=5, seed=1)


def test_correlation_over_folds_is_the_mean_of_their_own() -> None:
    x, y, step = rows(400)
    fold = np.arange(400) // 200
    # The models differ in scale and level, so pooled values would hide their skill.
    scaled = np.where(fold == 0, 100 + 50 * x, x)
    score = score_predictions(scaled, y, step, fold=fold, block_steps=5, seed=1)
    own = [np.corrcoef(x[fold == k], y[fold == k])[0, 1] for k in (0, 1)]
    assert score.ic.value == pytest.approx(np.mean(own), rel=1e-9)
    ranks = [spearmanr(x[fold == k], y[fold == k]).statistic for k in (0, 1)]
    assert score.rank_ic.value == pytest.approx(np.mean(ranks), rel=1e-9)


def test_no_rows_give_no_scores() -> None:
    score = score_predictions(np.zeros(2), np.full(2, math.nan), np.arange(2), block_steps=5, seed=1)
    assert score.rows == 0
    assert math.isnan(score.ic.value)


def test_constant_predictions_have_no_correlation() -> None:
    _, y, step = rows()
    score = score_predictions(np.zeros(len(y)), y, step, block_steps=5, seed=1)
    assert math.isnan(score.ic.value)
    assert math.isnan(score.hit_rate)
    assert score.r2 == 0


def test_interval_covers_the_true_value_at_its_nominal_rate() -> None:
    truth = 0.3 / math.sqrt(1 + 0.3**2)
    inside = 0
    for seed in range(100):
        x, y, step = rows(900, seed=seed)
        found = correlation(x, y, step, block_steps=5, seed=seed)
        inside += found.low <= truth <= found.high
    assert 88 <= inside <= 100


def test_interval_widens_with_repeated_rows_in_a_block() -> None:
    x, y, step = rows(300)
    once = correlation(x, y, step, block_steps=5, seed=1)
    again = correlation(np.repeat(x, 4), np.repeat(y, 4), np.repeat(step, 4), block_steps=5, seed=1)
    assert again.value == pytest.approx(once.value)
    assert again.high - again.low == pytest.approx(once.high - once.low)


def test_few_blocks_give_no_interval() -> None:
    x, y, step = rows(60)
    found = correlation(x, y, step, block_steps=10, seed=1)
    assert math.isfinite(found.value)
    assert math.isnan(found.low)


def test_deflated_sharpe_equals_the_papers_example() -> None:
    # Bailey and Lopez de Prado 2014, "A numerical example": 100 trials with variance 1/2, five years of days.
    benchmark = math.sqrt(0.5 / 250) * expected_maximum(100)
    found = probabilistic_sharpe(2.5 / math.sqrt(250), benchmark, periods=1250, skew=-3, tails=10)
    assert benchmark == pytest.approx(0.1132, abs=1e-4)
    assert found == pytest.approx(0.9004, abs=1e-4)


def test_more_trials_deflate_more() -> None:
    returns = np.random.default_rng(0).standard_normal(200) + 0.15
    tried = np.array([0.0, 0.05, 0.12])
    few, many = (deflated_sharpe(returns, tried, trials=trials) for trials in (3, 300))
    assert 0 < many < few < 1


def test_zero_returns_are_no_evidence() -> None:
    assert sharpe(np.zeros(50)) == 0
    assert deflated_sharpe(np.zeros(50), np.zeros(3), trials=3) == 0
    assert deflated_sharpe(np.ones(2), np.zeros(3), trials=3) == 0
