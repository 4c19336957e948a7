"""Conformal intervals: coverage on simulations, knowledge of labels, and an independent implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.evaluation.conformal import (
    ScoredRows,
    interval_coverage,
    interval_scores,
    online_radii,
    split_radius,
)

INSTRUMENTS, LAG = 5, 12


def simulated(*, steps: int, seed: int, scale: np.ndarray | float = 1.0, start: int = 0) -> ScoredRows:
    """Return rows of instruments at each step whose labels overlap over `LAG` steps, as those of a horizon do."""
    rng = np.random.default_rng(seed)
    moves = rng.standard_t(5, size=(INSTRUMENTS, steps + LAG - 1))
    label = np.lib.stride_tricks.sliding_window_view(moves, LAG, axis=1).sum(axis=2) / math.sqrt(LAG)
    score = np.abs(label * scale)
    step = np.broadcast_to(start + np.arange(steps), score.shape)
    return ScoredRows(score.ravel(), np.zeros(score.size), step.ravel(), step.ravel() + LAG + 1)


def test_intervals_cover_nine_of_ten_of_a_stationary_simulation() -> None:
    """Each kind within 90 +- 2 %, over 6 simulations of 1,000 validation and 1,000 test steps."""
    found = [
        interval_coverage(
            simulated(steps=1_000, seed=seed), simulated(steps=1_000, seed=100 + seed, start=2_000)
        )
        for seed in range(6)
    ]
    for kind in ("split", "rolling", "adaptive"):
        mean = np.mean([one[kind]["coverage"] for one in found])
        assert mean == pytest.approx(0.9, abs=0.02), kind


def test_adaptive_intervals_follow_a_change_of_scale_that_split_ones_miss() -> None:
    wilder = np.where(np.arange(1_500) < 500, 1.0, 2.0)
    found = interval_coverage(
        simulated(steps=1_500, seed=1), simulated(steps=1_500, seed=2, scale=wilder, start=2_000)
    )
    assert found["split"]["coverage"] < 0.82
    assert found["rolling"]["coverage"] > found["split"]["coverage"] + 0.03
    assert found["adaptive"]["coverage"] == pytest.approx(0.9, abs=0.03)
    assert found["adaptive"]["width"] > found["split"]["width"]


@pytest.mark.parametrize("n", [19, 20, 99, 100, 1_000])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_split_radius_equals_the_quantile_of_numpy(n: int, level: float) -> None:
    """numpy.quantile(method="inverted_cdf") at ceil((n + 1) level) / n, the formula of Angelopoulos and Bates, A Gentle
    Introduction to Conformal Prediction, 2021, section 1; equal to the bit.
    """
    scores = np.random.default_rng(n).exponential(size=n)
    expected = np.quantile(scores, min(math.ceil((n + 1) * level) / n, 1.0), method="inverted_cdf")
    assert split_radius(scores, level) == expected


def test_split_covers_exactly_as_ranks_say() -> None:
    """Of n + 1 exchangeable scores, the last is covered with probability ceil((n + 1) level) / (n + 1)."""
    rng, n = np.random.default_rng(0), 9
    scores = rng.standard_normal((20_000, n + 1))
    covered = [row[-1] <= split_radius(row[:-1], 0.8) for row in scores]
    assert np.mean(covered) == pytest.approx(0.8, abs=0.01)


def slow_adaptive(calibration: ScoredRows, test: ScoredRows, *, level: float, rate: float) -> np.ndarray:
    """Return radii as Gibbs and Candes define them (2021, equation 2), step by step, with labels that come late."""
    radii, current = np.full(len(test.score), np.nan), level
    seen = set()
    for step in np.unique(test.decided_ns):
        fresh = [i for i in range(len(test.score)) if test.known_ns[i] <= step and i not in seen]
        seen |= set(fresh)
        if fresh:
            misses = np.mean([test.score[i] > radii[i] for i in fresh])
            current += rate * (misses - (1 - level))
        known = [
            pair for pair in zip(calibration.known_ns, calibration.score, strict=True) if pair[0] <= step
        ]
        known += [(test.known_ns[i], test.score[i]) for i in sorted(seen, key=lambda i: test.known_ns[i])]
        known.sort(key=lambda pair: pair[0])
        newest = sorted(score for _, score in known[-len(calibration.score) :])
        rank = math.ceil((len(newest) + 1) * current - 1e-9)
        here = test.decided_ns == step
        radii[here] = -math.inf if current <= 0 else newest[rank - 1] if rank <= len(newest) else math.inf
    return radii


@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_online_radii_equal_the_definition_step_by_step(rate: float) -> None:
    calibration = simulated(steps=30, seed=1)
    wild = simulated(steps=60, seed=2, scale=np.linspace(0.5, 3, 60), start=40)
    found = online_radii(calibration, wild, level=0.9, learning_rate=rate)
    np.testing.assert_array_equal(found, slow_adaptive(calibration, wild, level=0.9, rate=rate))


def test_no_radius_knows_a_label_whose_span_has_not_ended() -> None:
    calibration, test = simulated(steps=50, seed=1), simulated(steps=200, seed=2, start=60)
    cut = 150
    later = test.known_ns > cut
    changed = ScoredRows(np.where(later, 99.0, test.score), test.half_width, test.decided_ns, test.known_ns)
    before = test.decided_ns <= cut
    first, second = (online_radii(calibration, rows, level=0.9) for rows in (test, changed))
    np.testing.assert_array_equal(first[before], second[before])
    assert not np.array_equal(first[~before], second[~before])


def test_rows_without_a_label_count_for_nothing_and_order_does_not_matter() -> None:
    calibration, test = simulated(steps=200, seed=1), simulated(steps=200, seed=2, start=300)
    hidden = np.random.default_rng(3).random(len(test.score)) < 0.2
    bare = ScoredRows(np.where(hidden, np.nan, test.score), test.half_width, test.decided_ns, test.known_ns)
    kept = ScoredRows(*(getattr(test, name)[~hidden] for name in test.__slots__))
    found, alone = (interval_coverage(calibration, rows) for rows in (bare, kept))
    assert found == alone
    shuffle = np.random.default_rng(4).permutation(len(test.score))
    mixed = ScoredRows(*(getattr(test, name)[shuffle] for name in test.__slots__))
    np.testing.assert_array_equal(
        online_radii(calibration, mixed, level=0.9), online_radii(calibration, test, level=0.9)[shuffle]
    )


def test_scores_of_quantiles_are_distances_to_their_interval() -> None:
    scores = interval_scores(np.array([0.0, 3.0, -5.0]), np.full(3, -1.0), np.full(3, 2.0))
    assert scores.tolist() == [-1.0, 1.0, 4.0]
    assert interval_scores(np.array([2.0]), np.array([0.5]), np.array([0.5])).tolist() == [1.5]


def test_nothing_to_calibrate_on_covers_everything() -> None:
    nothing = ScoredRows(*(np.empty(0),) * 2, *(np.empty(0, dtype=np.int64),) * 2)
    found = interval_coverage(nothing, simulated(steps=5, seed=1))
    assert found["split"] == {"coverage": 1.0, "width": math.inf}
    assert math.isnan(interval_coverage(simulated(steps=50, seed=1), nothing)["split"]["coverage"])
