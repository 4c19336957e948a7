"""Paired comparison: it finds what one model has more, and nothing where both are equal."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.evaluation.comparison import ic_difference, mean_difference


def made(seed: int, *, more: float, steps: int = 600) -> tuple[np.ndarray, ...]:
    """Return two predictions of one label that differ by the weight of the signal, and the steps."""
    draw = np.random.default_rng(seed)
    label, common, own = draw.standard_normal((3, steps * 2))
    a = 0.05 * label + common
    return a, a + more * label + 0.05 * own, label, np.repeat(np.arange(steps), 2)


def test_the_difference_is_that_of_the_correlations() -> None:
    a, b, label, step = made(0, more=0.1)
    found = ic_difference(a, b, label, step, block_steps=10, seed=1)
    assert found.value == pytest.approx(np.corrcoef(b, label)[0, 1] - np.corrcoef(a, label)[0, 1])
    back = ic_difference(b, a, label, step, block_steps=10, seed=1)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_a_small_gain_is_seen_that_separate_intervals_would_hide() -> None:
    a, b, label, step = made(3, more=0.05)
    found = ic_difference(a, b, label, step, block_steps=10, seed=1)
    assert found.low > 0
    assert found.value < 2 * 1.96 / math.sqrt(len(label)), "each IC alone is known to no better than that"


def test_equal_models_differ_by_chance_at_the_stated_rate() -> None:
    alarms = 0
    for seed in range(200):
        a, b, label, step = made(seed, more=0.0, steps=300)
        found = ic_difference(a, b, label, step, block_steps=10, seed=seed)
        alarms += not found.low <= 0 <= found.high
    assert alarms <= 24, "5 % of 200 are 10; 24 is four standard errors more"


def test_a_constant_prediction_and_too_few_blocks_have_no_interval() -> None:
    a, b, label, step = made(0, more=0.1, steps=100)
    assert math.isnan(ic_difference(np.zeros_like(a), b, label, step, block_steps=10, seed=0).value)
    few = ic_difference(a, b, label, step, block_steps=10, seed=0)
    assert math.isfinite(few.value)
    assert math.isnan(few.low)


def test_net_is_compared_period_by_period() -> None:
    draw = np.random.default_rng(4)
    market, more = draw.standard_normal(200) * 0.02, draw.standard_normal(200) * 0.001
    found = mean_difference(market, market + 0.001 + more, least_block=1, seed=0)
    assert 0 < found.low < found.value < found.high
    assert found.value == pytest.approx(0.001 + more.mean())
    assert math.isnan(mean_difference(market[:15], market[:15] + 0.1, least_block=1, seed=0).low)
    assert math.isnan(mean_difference(market[:0], market[:0], least_block=1, seed=0).value)
