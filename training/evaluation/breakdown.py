"""Predictive power in parts: by time, instrument, hour and regime, by quantile, and with growing distance.

Rows are joined over all test windows. Within a fold values are standardised before they are compared, since each fold
has a model of its own. The t-values are those of a mean over time with the autocorrelation of overlapping labels
(W. Newey and K. West, A simple, positive semi-definite, heteroskedasticity and autocorrelation consistent covariance
matrix, Econometrica 55, 1987).

Axes: N rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from training.evaluation.metrics import ranks, standardise

LEAST_ROWS: Final = 30
"""A part with fewer rows has no figures."""
LEAST_INSTRUMENTS: Final = 3
"""A correlation across instruments needs as many at one time."""
QUANTILES: Final = 5
_PAIRS: Final = 1 << 24
"""Comparisons of two instruments at a time."""


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Labelled test rows of one model over all folds, ordered by time.

    Args:
        instrument: (N,) int64, row of the panel.
        step: (N,) int64, bar on the clock.
        prediction: (N,) float64, standardised within its fold.
        label: (N,) float64, standardised within its fold.
        raw_prediction, raw_label: (N,) float64, in units of the label's volatility.
        fold: (N,) int64.
    """

    instrument: np.ndarray
    step: np.ndarray
    prediction: np.ndarray
    label: np.ndarray
    raw_prediction: np.ndarray
    raw_label: np.ndarray
    fold: np.ndarray

    @classmethod
    def of(
        cls,
        instrument: np.ndarray,
        step: np.ndarray,
        prediction: np.ndarray,
        label: np.ndarray,
        fold: np.ndarray,
    ) -> LabelledRows:
        """Return the rows that have a label, (N,) each."""
        order = np.argsort(step, kind="stable")
        order = order[np.isfinite(label[order])]
        x, y = prediction[order].astype(np.float64), label[order].astype(np.float64)
        group = fold[order]
        return cls(
            instrument[order].astype(np.int64),
            step[order].astype(np.int64),
            standardise(x, group),
            standardise(y, group),
            x,
            y,
            group,
        )


@dataclass(frozen=True, slots=True)
class MeanOverTime:
    """Mean of a series over time with its error.

    Args:
        value: the mean; NaN without values.
        t: the mean over its Newey-West error; NaN where that is 0 or unknown.
        count: values.
    """

    value: float
    t: float
    count: int


def newey_west(values: np.ndarray, *, lags: int) -> MeanOverTime:
    """Return the mean of a series with the t-value that allows for autocorrelation up to `lags`.

    Args:
        values: (T,) float64, in the order of time.
        lags: with Bartlett's weights; at least the steps over which labels overlap.
    """
    n = len(values)
    if n == 0:
        return MeanOverTime(math.nan, math.nan, 0)
    mean = float(values.mean())
    centred = values - mean
    variance = float((centred * centred).sum()) / n
    for lag in range(1, min(lags, n - 1) + 1):
        variance += 2 * (1 - lag / (lags + 1)) * float((centred[lag:] * centred[:-lag]).sum()) / n
    error = math.sqrt(variance / n) if variance > 0 else 0.0
    return MeanOverTime(mean, mean / error if error > 0 else math.nan, n)


def cross_sectional_ics(rows: LabelledRows, *, rank: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the correlation across instruments at each time that has `LEAST_INSTRUMENTS` or more.

    Returns:
        The steps, (M,) int64, and the correlations, (M,) float64.
    """
    steps, place = np.unique(rows.step, return_inverse=True)
    _, column = np.unique(rows.instrument, return_inverse=True)
    tables = []
    for values in (rows.raw_prediction, rows.raw_label):
        table = np.full((len(steps), int(column.max(initial=0)) + 1), np.nan)
        table[place, column] = values
        tables.append(_ranks_across(table) if rank else table)
    x, y = tables
    count = np.isfinite(x).sum(axis=1)
    enough = count >= LEAST_INSTRUMENTS
    x, y = x[enough], y[enough]
    x, y = x - np.nanmean(x, axis=1, keepdims=True), y - np.nanmean(y, axis=1, keepdims=True)
    spread = np.sqrt(np.nansum(x * x, axis=1) * np.nansum(y * y, axis=1))
    varies = spread > 1e-12
    found: np.ndarray = np.nansum(x * y, axis=1)[varies] / spread[varies]
    return steps[enough][varies], found


def _ranks_across(table: np.ndarray) -> np.ndarray:
    """Return the ranks of each row of a table, ties averaged, NaN where it is."""
    found = np.empty(table.shape)
    size = max(1, _PAIRS // max(table.shape[1] ** 2, 1))
    for first in range(0, len(table), size):
        part = table[first : first + size]
        below = (part[:, None, :] < part[:, :, None]).sum(axis=2)
        equal = (part[:, None, :] == part[:, :, None]).sum(axis=2)
        found[first : first + size] = np.where(np.isfinite(part), below + (equal + 1) / 2, np.nan)
    return found


def products_by_time(rows: LabelledRows) -> np.ndarray:
    """Return the mean product of standardised prediction and label at each time, (M,); its mean is the pooled IC.

    In a fold of constant predictions these are 0, so the products are scaled to the deviations of all rows.
    """
    if not len(rows.step):
        return np.zeros(0)
    first = np.flatnonzero(np.diff(rows.step, prepend=rows.step[0] - 1))  # rows are in the order of time
    scale = math.sqrt(float((rows.prediction**2).mean() * (rows.label**2).mean()))
    if scale == 0:
        return np.zeros(len(first))
    sums = np.add.reduceat(rows.prediction * rows.label, first) / scale
    means: np.ndarray = sums * len(first) / len(rows.step)
    return means


def ic_by_group(rows: LabelledRows, group: np.ndarray) -> dict[int, MeanOverTime]:
    """Return the IC of each group of rows; groups with fewer than `LEAST_ROWS` rows are left out.

    Args:
        rows: the rows.
        group: (N,) int64; negative: in no group.

    Returns:
        By group: the correlation within it, without a t-value, and its rows.
    """
    found = {}
    for number in np.unique(group[group >= 0]).tolist():
        own = group == number
        x, y = rows.prediction[own], rows.label[own]
        if len(x) >= LEAST_ROWS and np.ptp(x) > 0 and np.ptp(y) > 0:
            found[number] = MeanOverTime(float(np.corrcoef(x, y)[0, 1]), math.nan, len(x))
    return found


def terciles(values: np.ndarray, limits: Sequence[float]) -> np.ndarray:
    """Return the regime of each value: 0, 1 or 2 between two limits, -1 where it is NaN."""
    found: np.ndarray = np.where(np.isfinite(values), np.searchsorted(np.asarray(limits), values), -1)
    return found


def quantile_means(rows: LabelledRows, *, quantiles: int = QUANTILES) -> list[MeanOverTime]:
    """Return the mean label, in volatilities, of rows by the quantile of their prediction in its fold, ascending."""
    place = np.full(len(rows.step), -1)
    for fold in np.unique(rows.fold):
        own = np.flatnonzero(rows.fold == fold)
        if np.ptp(rows.raw_prediction[own]) > 0:
            place[own] = np.minimum(
                (ranks(rows.raw_prediction[own]) - 0.5) / len(own) * quantiles, quantiles - 1
            ).astype(np.int64)
    found = []
    for number in range(quantiles):
        values = rows.raw_label[place == number]
        found.append(MeanOverTime(float(values.mean()) if len(values) else math.nan, math.nan, len(values)))
    return found


@dataclass(frozen=True, slots=True)
class Calibration:
    """Agreement of predictions with labels in size.

    Args:
        slope: of labels on predictions, by least squares; 1 is calibrated, below 1 predictions are too large.
        bins: mean prediction, mean label and rows, by decile of the prediction.
    """

    slope: float
    bins: list[tuple[float, float, int]]


def calibration(rows: LabelledRows, *, bins: int = 10) -> Calibration:
    """Return how the size of predictions agrees with that of labels, both in volatilities."""
    x, y = rows.raw_prediction, rows.raw_label
    if len(x) < LEAST_ROWS or np.ptp(x) == 0:
        return Calibration(math.nan, [])
    slope = float(np.cov(x, y)[0, 1] / x.var(ddof=1))
    place = np.minimum((ranks(x) - 0.5) / len(x) * bins, bins - 1).astype(np.int64)
    parts = [place == number for number in range(bins)]
    return Calibration(
        slope,
        [
            (float(x[own].mean()), float(y[own].mean()), int(own.sum()))
            if own.any()
            else (math.nan, math.nan, 0)
            for own in parts
        ],
    )


def decay(rows: LabelledRows, labels: np.ndarray, steps: Sequence[int]) -> list[tuple[int, float]]:
    """Return the IC of predictions with labels that start later.

    Args:
        rows: with predictions.
        labels: (S, T) float, NaN where unknown, on the clock of the rows' steps.
        steps: bars by which the label starts later; 0 is the label itself.
    """
    found = []
    for later in steps:
        at = rows.step + later
        y = np.full(len(at), np.nan)
        within = at < labels.shape[1]
        y[within] = labels[rows.instrument[within], at[within]]
        known = np.isfinite(y)
        value = math.nan
        if known.sum() >= LEAST_ROWS:
            scaled = standardise(y[known], rows.fold[known])
            if np.ptp(rows.prediction[known]) > 0 and np.ptp(scaled) > 0:
                value = float(np.corrcoef(rows.prediction[known], scaled)[0, 1])
        found.append((later, value))
    return found
