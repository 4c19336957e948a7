"""Predictive power in parts: against direct computation, and against values of statsmodels and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.breakdown import (
    LEAST_INSTRUMENTS,
    LabelledRows,
    calibration,
    cross_sectional_ics,
    decay,
    ic_by_group,
    newey_west,
    products_by_time,
    quantile_means,
    terciles,
)


def rows_of(*, instruments: int = 5, steps: int = 60, seed: int = 0, signal: float = 0.4) -> LabelledRows:
    """Return rows of two folds, a tenth without a label, in no order."""
    draw = np.random.default_rng(seed)
    instrument, step = (part.ravel() for part in np.indices((instruments, steps)))
    prediction = draw.standard_normal(len(step)).round(1)
    label = signal * prediction + draw.standard_normal(len(step))
    label[draw.random(len(step)) < 0.1] = np.nan
    order = draw.permutation(len(step))
    return LabelledRows.of(
        instrument[order], step[order], prediction[order], label[order], (step[order] >= steps // 2) * 1
    )


@given(seed=st.integers(0, 1_000), instruments=st.integers(1, 9), rank=st.booleans())
def test_correlations_across_instruments_equal_those_of_each_time(
    seed: int, instruments: int, rank: bool
) -> None:
    rows = rows_of(instruments=instruments, steps=12, seed=seed)
    steps, found = cross_sectional_ics(rows, rank=rank)
    expected = {}
    for step in range(12):
        own = rows.step == step
        x, y = rows.raw_prediction[own], rows.raw_label[own]
        if len(x) < LEAST_INSTRUMENTS or np.ptp(x) == 0:
            continue
        if rank:
            x, y = (
                np.array([(v < value).sum() + ((v == value).sum() + 1) / 2 for value in v]) for v in (x, y)
            )
        expected[step] = np.corrcoef(x, y)[0, 1]
    assert steps.tolist() == list(expected)
    np.testing.assert_allclose(found, list(expected.values()), atol=1e-12)


def test_newey_west_equals_statsmodels() -> None:
    """OLS(y, 1).fit(cov_type="HAC", cov_kwds={"maxlags": 4}), statsmodels 0.15.0, to 1e-9."""
    y = np.random.default_rng(5).standard_normal(200)
    y = y + np.r_[0.0, 0.5 * y[:-1]] + 0.1
    found = newey_west(y, lags=4)
    assert found.value == pytest.approx(STATSMODELS_MEAN, rel=1e-9)
    assert found.t == pytest.approx(STATSMODELS_T, rel=1e-9)


STATSMODELS_MEAN, STATSMODELS_T = -0.0010214877789422572, -0.010564117435423263


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=40), st.integers(0, 6))
def test_without_lags_the_error_is_that_of_independent_values(values: list[float], lags: int) -> None:
    series = np.array(values)
    found = newey_west(series, lags=0)
    spread = series.std()
    if spread > 1e-9:
        assert found.t == pytest.approx(
            series.mean() / (spread / math.sqrt(len(series))), rel=1e-9, abs=1e-12
        )
    assert newey_west(series, lags=lags).value == pytest.approx(series.mean())


def test_the_mean_product_over_time_is_the_pooled_correlation() -> None:
    rows = rows_of()
    pooled = np.mean(rows.prediction * rows.label)
    assert products_by_time(rows).mean() == pytest.approx(pooled)
    assert pooled == pytest.approx(0.4 / math.sqrt(1.16), abs=0.15)


def test_groups_have_their_own_correlation_and_small_ones_have_none() -> None:
    rows = rows_of(steps=200)
    group = np.where(rows.instrument == 4, -1, rows.instrument)
    group[rows.instrument == 3] = 3
    group[np.flatnonzero(rows.instrument == 3)[20:]] = -1
    found = ic_by_group(rows, group)
    assert sorted(found) == [0, 1, 2]
    own = rows.instrument == 1
    assert found[1].value == pytest.approx(np.corrcoef(rows.prediction[own], rows.label[own])[0, 1])
    assert found[1].count == own.sum()


def test_terciles_lie_between_their_limits() -> None:
    assert terciles(np.array([0.5, 1.5, 2.5, math.nan]), (1.0, 2.0)).tolist() == [0, 1, 2, -1]


def test_labels_rise_with_the_quantile_of_a_prediction_that_is_right() -> None:
    rows = rows_of(steps=400, signal=2.0)
    parts = quantile_means(rows)
    assert sum(part.count for part in parts) == len(rows.step)
    means = [part.value for part in parts]
    assert means == sorted(means)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_the_slope_tells_by_how_much_predictions_are_too_large(factor: float) -> None:
    rows = rows_of(steps=2_000, signal=factor)
    found = calibration(rows)
    assert found.slope == pytest.approx(factor, abs=0.05)
    assert sum(count for _, _, count in found.bins) == len(rows.step)
    for predicted, seen, count in found.bins:
        assert seen == pytest.approx(factor * predicted, abs=5 / math.sqrt(count))


def test_decay_compares_with_labels_that_start_later() -> None:
    draw = np.random.default_rng(1)
    labels = draw.standard_normal((3, 300))
    step = np.tile(np.arange(290), 3)
    instrument = np.repeat(np.arange(3), 290)
    later = labels[instrument, step + 4]
    rows = LabelledRows.of(instrument, step, later, labels[instrument, step], np.zeros(len(step), dtype=int))
    found = dict(decay(rows, labels, (0, 4, 8)))
    assert found[4] == pytest.approx(1.0)
    assert abs(found[0]) < 0.1
    assert abs(found[8]) < 0.1
