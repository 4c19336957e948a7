"""Prediction intervals by conformal prediction: split, rolling split and adaptive.

A score says by how much a label lies outside of what a model predicted: the absolute error of a point prediction, or
the distance to an interval of quantiles (Romano, Patterson, Candes, Conformalized Quantile Regression, 2019). The
interval of a row is the prediction plus or minus a radius, a quantile of earlier scores:

- `split`: of the validation rows of a fold, the same for all of its tests. It covers at least `level` of them if
  their order carries no information (Vovk et al., 2005; Lei et al., 2018), which markets do not promise.
- `rolling`: of as many newest scores, from validation and from test rows whose labels are known by then.
- `adaptive`: rolling, at a level that is raised after a miss and lowered after a hit (Gibbs and Candes, Adaptive
  Conformal Inference Under Distribution Shift, 2021), so that the long-run coverage is `level` whatever happens.

A label is known when its span has ended, and no score is used before. Scores, radii and widths are in units of the
label; times the volatility of the row they are returns.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

LEVEL: Final = 0.9
"""Share of labels that intervals should cover."""
LEARNING_RATE: Final = 0.01
"""Gamma of the adaptive level, per step with known labels."""
_UPDATES: Final = 250
"""Most recalibrations of a test window: a sort of all scores at each bar would take longer than the models."""


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Rows with their scores.

    Args:
        score: (N,) float64; NaN where no label was observed, so that the row counts for nothing.
        half_width: (N,) float64, half of the interval that the model predicts itself; 0 for point predictions.
        decided_ns, known_ns: (N,) int64, times of decision and of the end of the label's span.
    """

    score: np.ndarray
    half_width: np.ndarray
    decided_ns: np.ndarray
    known_ns: np.ndarray


@dataclass(frozen=True, slots=True)
class Coverage:
    """What intervals of one kind did on test rows.

    Args:
        coverage: share of labels inside.
        width: mean width of the intervals, in units of the label; infinite where calibration had too few rows.
    """

    coverage: float
    width: float


def interval_scores(label: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return by how much each label lies outside of its interval; negative inside. For points, low equals high."""
    scores: np.ndarray = np.maximum(low - label, label - high).astype(np.float64)
    return scores


def split_radius(scores: np.ndarray, level: float) -> float:
    """Return the radius that covers `level` of exchangeable rows: the ceil((n + 1) * level)-th smallest score.

    It is infinite if there are too few scores for that.

    Args:
        scores: (N,) float64, finite, in any order.
        level: in (0, 1).

    >>> split_radius(np.arange(1.0, 10.0), 0.9), split_radius(np.arange(1.0, 9.0), 0.9)
    (9.0, inf)
    """
    return _radius(np.sort(scores), level)


def interval_coverage(calibration: ScoredRows, test: ScoredRows, *, level: float = LEVEL) -> dict[str, Any]:
    """Return radius and coverage of the three kinds of intervals on test rows, as plain values.

    Args:
        calibration: validation rows of a fold.
        test: its test rows, in any order.
        level: share to cover.
    """
    known = np.isfinite(calibration.score)
    scores = calibration.score[known]
    radius = split_radius(scores, level)
    kinds = {
        "split": _covered(test, np.full(len(test.score), radius)),
        "rolling": _covered(test, online_radii(calibration, test, level=level, learning_rate=0.0)),
        "adaptive": _covered(test, online_radii(calibration, test, level=level)),
    }
    return {
        "level": level,
        "radius": radius,
        "calibration_rows": len(scores),
        "test_rows": int(np.isfinite(test.score).sum()),
        **{name: asdict(found) for name, found in kinds.items()},
    }


def online_radii(
    calibration: ScoredRows, test: ScoredRows, *, level: float, learning_rate: float = LEARNING_RATE
) -> np.ndarray:
    """Return the radius of each test row, from scores that were known at its decision.

    Args:
        calibration: rows before the test; as many newest scores are in use at any time.
        test: rows, in any order.
        level: share to cover.
        learning_rate: of the adaptive level; 0 keeps it at `level`.

    Returns:
        (N,) float64, in the order of `test`; it may be infinite, and minus infinite at an adaptive level of 0.
    """
    own = np.isfinite(calibration.score)
    known_ns = np.concatenate((calibration.known_ns[own], test.known_ns))
    scores = np.concatenate((calibration.score[own], test.score))
    order = np.argsort(known_ns, kind="stable")
    known_ns, scores = known_ns[order], scores[order]
    size = max(int(own.sum()), 1)
    # The radius at which each row was judged decides whether it was a hit, once its label is known.
    judged = np.full(len(scores), np.nan)
    place_of = np.empty(len(order), dtype=np.int64)
    place_of[order] = np.arange(len(order))
    place_of = place_of[int(own.sum()) :]

    radii = np.empty(len(test.score))
    steps, first = np.unique(
        test.decided_ns[by_time := np.argsort(test.decided_ns, kind="stable")], return_index=True
    )
    stops = np.append(first, len(by_time))[1:]
    every = max(1, -(-len(steps) // _UPDATES))
    current, seen, pool = level, 0, np.empty(0)
    for number, (step_ns, start, stop) in enumerate(zip(steps, first, stops, strict=True)):
        until = int(np.searchsorted(known_ns, step_ns, side="right"))
        if learning_rate > 0:
            fresh = slice(seen, until)
            judged_now = np.isfinite(scores[fresh]) & ~np.isnan(judged[fresh])
            if judged_now.any():
                missed = float((scores[fresh] > judged[fresh])[judged_now].mean())
                current += learning_rate * (missed - (1 - level))
        seen = max(seen, until)
        if number % every == 0:
            newest = scores[:until]
            newest = newest[np.isfinite(newest)][-size:]
            pool = np.sort(newest)
        rows = by_time[start:stop]
        radii[rows] = judged[place_of[rows]] = _radius(pool, current)
    return radii


def _radius(ordered: np.ndarray, level: float) -> float:
    """Return the radius of a level, of ascending scores; a level from 1 on covers everything, and one to 0 nothing."""
    if level <= 0:
        return -math.inf
    rank = math.ceil((len(ordered) + 1) * level - 1e-9)
    return float(ordered[rank - 1]) if rank <= len(ordered) else math.inf


def _covered(test: ScoredRows, radii: np.ndarray) -> Coverage:
    known = np.isfinite(test.score)
    if not known.any():
        return Coverage(math.nan, math.nan)
    width = 2 * np.maximum(test.half_width + radii, 0.0)[known]
    return Coverage(float((test.score <= radii)[known].mean()), float(width.mean()))
