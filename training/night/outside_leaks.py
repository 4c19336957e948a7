"""Leak checks on predictions alone, for models that nobody can inspect.

What a model knew cannot be seen from its predictions, but three kinds of knowledge leave marks that honest skill does
not: predictions that are their labels; predictions that know one later bar nearly to the digit; and skill that ends
abruptly at a later bar. The skill of a forecast fades with the distance of a bar from its decision. Let `c[j]` be the
correlation of the predictions with the return of the j-th bar after the decision. Where skill fades geometrically, at
any rate or as a mixture of rates, the edge

    d[j] = 3/2 (c[j] - c[j+1]) - 1/2 (c[j-1] - c[j+2])

is at most 0 (for one rate q it is -(1 - q)^3 c[j-1] / 2). A forecast that has seen prices up to bar j has `c[j]`
above 0 and nothing after it, so `d[j]` is near 3/2 c[j]. The label ends at such a bar, so a model that saw its labels,
however much noise hides it, has an edge there.
Weak knowledge in few rows cannot be told from luck; the report says what was compared.

Axes: S instruments, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from training.evaluation.gate import GateRule
from training.evaluation.metrics import score_predictions
from training.night.artifacts import Predictions

CERTAIN: Final = 0.99
"""Correlation with their labels, in one fold, from which on predictions are considered to be labels."""
MOST_EQUAL: Final = 0.01
"""Share of predictions that may equal their label, or its plain return, to five digits."""
MOST_NEXT: Final = 0.97
"""Correlation with the return of a bar before the order's fill, beyond the instrument's own past returns. A quote of
one venue predicts its copy on another with about 0.9 (features/leakage/point_in_time.py)."""
MOST_LATER: Final = 0.6
"""The same for a bar after the fill, or a correction that came after the decision."""
MOST_SIGMA: Final = 4.0
"""Standard errors by which skill may end abruptly at a bar; predictions without knowledge stayed below 3.2 in 600 runs
(700 and 1,500 steps of two instruments, Student returns with 3 degrees of freedom, 14 bars each)."""
_PAST_BARS: Final = 4
_LEAST_ROWS: Final = 100
_LEAST_EQUAL: Final = 10
_LEAST_BLOCKS: Final = 20
_MOST_BARS: Final = 64
_MOST_ROWS: Final = 200_000


@dataclass(frozen=True, slots=True)
class PredictionMarket:
    """What the checks compare predictions with.

    Args:
        price: (S, T) float64, price at each close as known at the decision; NaN where there was none.
        revised: (S, T) float64, the same as known at the end; NaN where there is none.
        scale: (S, T) float64, volatility of one horizon.
        could_know: (S, T) bool, some bar up to this one was observed, then or later.
        delay_bars: bars from a decision to its fill.
        horizon_bars: bars from fill to exit.
    """

    price: np.ndarray
    revised: np.ndarray
    scale: np.ndarray
    could_know: np.ndarray
    delay_bars: int
    horizon_bars: int


@dataclass(frozen=True, slots=True)
class LaterSkill:
    """Correlation of predictions with the return of one later bar.

    Args:
        bar: bars after the decision, from 1.
        correlation: with its return; NaN with too few rows.
        beyond: the same beyond the instrument's own past returns.
        edge: by how much skill ends here, in standard errors; NaN without a test.
    """

    bar: int
    correlation: float
    beyond: float
    edge: float


def check_leaks(
    parts: Sequence[Predictions], opinions: Sequence[Predictions], market: PredictionMarket
) -> tuple[tuple[GateRule, ...], tuple[LaterSkill, ...]]:
    """Return the outcome of every check, and the skill by later bar.

    Args:
        parts: by fold, predictions on test rows.
        opinions: all predictions of the file within the panel, on any bar.
        market: prices and labels.
    """
    rows = _Rows.of(parts, market)
    skill = _skill_by_bar(rows, market)
    return (
        (
            _own_label(parts, market),
            _later_prices(skill, market),
            _abrupt_end(skill),
            _revisions(rows, market),
            _unknown_bars(opinions, market),
        ),
        skill,
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Test rows with standardised predictions.

    Args:
        instrument, step: (N,) int64.
        z: (N,) predictions with mean 0 and deviation 1 in each fold.
        past: (N, P) known returns before the decision, in volatilities; 0 where unknown.
        returns: (S, T) log return into each bar; NaN where unknown.
        volatility: (N,) of one bar.
    """

    instrument: np.ndarray
    step: np.ndarray
    z: np.ndarray
    past: np.ndarray
    returns: np.ndarray
    volatility: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Predictions], market: PredictionMarket) -> _Rows:
        instrument, step = (
            np.concatenate([getattr(part, name) for part in parts]).astype(np.int64)
            for name in ("instrument", "step")
        )
        z = np.concatenate([_standardised(part.prediction.astype(np.float64)) for part in parts])
        thin = slice(None, None, max(1, len(z) // _MOST_ROWS))
        instrument, step, z = instrument[thin], step[thin], z[thin]
        with np.errstate(invalid="ignore", divide="ignore"):
            returns = np.diff(np.log(market.price), axis=1, prepend=np.nan)
        volatility = market.scale[instrument, step] / market.horizon_bars**0.5
        back = [returns[instrument, np.maximum(step - bars, 0)] / volatility for bars in range(_PAST_BARS)]
        return cls(instrument, step, z, np.nan_to_num(np.stack(back, axis=1)), returns, volatility)

    def later(self, bar: int) -> np.ndarray:
        """Return the return of the bar-th bar after each decision, in volatilities; NaN where unknown."""
        at = self.step + bar
        inside = at < self.returns.shape[1]
        found = self.returns[self.instrument, np.where(inside, at, 0)] / self.volatility
        return np.where(inside, found, np.nan)

    def beyond_past(self, values: np.ndarray) -> tuple[float, int]:
        """Return the correlation of predictions and values beyond the past returns, and the rows used."""
        known = np.isfinite(values)
        count = int(known.sum())
        if count < _LEAST_ROWS:
            return float("nan"), count
        regressors = np.column_stack([np.ones(count), self.past[known]])
        both = np.column_stack([self.z[known], values[known]])
        rest = both - regressors @ np.linalg.lstsq(regressors, both, rcond=None)[0]
        size = np.sqrt((rest**2).sum(axis=0))
        if size[0] <= 1e-6 * np.sqrt(count) or size[1] == 0:
            return 0.0, count
        return float((rest[:, 0] * rest[:, 1]).sum() / (size[0] * size[1])), count


def _own_label(parts: Sequence[Predictions], market: PredictionMarket) -> GateRule:
    name = "leak: own labels"
    equal = rows = 0
    highest = 0.0
    for part in parts:
        known = np.isfinite(part.label) & (part.label != 0)
        prediction, label = part.prediction[known], part.label[known]
        plain = label * market.scale[part.instrument[known], part.step[known]]
        equal += int((_is_equal(prediction, label) | _is_equal(prediction, plain)).sum())
        rows += len(label)
        if len(label) >= _LEAST_ROWS:
            score = score_predictions(prediction, label, part.step[known], block_steps=1 << 30, seed=0)
            found = (abs(estimate.value) for estimate in (score.ic, score.rank_ic))
            highest = max([highest, *(value for value in found if np.isfinite(value))])
    if equal >= max(_LEAST_EQUAL, MOST_EQUAL * rows):
        return GateRule(
            name,
            False,
            equal / rows,
            MOST_EQUAL,
            f"{equal:,} of {rows:,} predictions are equal to their label",
        )
    return GateRule(
        name,
        highest < CERTAIN,
        highest,
        CERTAIN,
        f"highest correlation with the labels of a fold is {highest:.3f}; no forecast reaches {CERTAIN:g}",
    )


def _is_equal(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.abs(values - others) <= 1e-5 * np.abs(others)
    return found


def _skill_by_bar(rows: _Rows, market: PredictionMarket) -> tuple[LaterSkill, ...]:
    last = min(2 * (market.delay_bars + market.horizon_bars) + 2, _MOST_BARS)
    ahead = [rows.later(bar) for bar in range(1, last + 3)]
    found = []
    for bar in range(1, last + 1):
        values = ahead[bar - 1]
        known = np.isfinite(values)
        beyond, count = rows.beyond_past(values)
        correlation = float(_correlation(rows.z[known], values[known])) if count >= _LEAST_ROWS else np.nan
        edge = np.nan
        if bar >= 2:
            edge = _edge(rows, [ahead[bar - 1 + shift] for shift in (-1, 0, 1, 2)], block_bars=last + 2)
        found.append(LaterSkill(bar, correlation, beyond, edge))
    return tuple(found)


def _edge(rows: _Rows, around: Sequence[np.ndarray], *, block_bars: int) -> float:
    """Return how abruptly skill ends at a bar, in standard errors; at most 0 where it goes on.

    Args:
        rows: with predictions.
        around: (N,) returns of the bar before, the bar, and the two bars after.
        block_bars: bars of a block, within which rows share prices.
    """
    before, at, after, second = around
    known = np.isfinite(before) & np.isfinite(at) & np.isfinite(after) & np.isfinite(second)
    z, before, at, after, second = (values[known] for values in (rows.z, before, at, after, second))
    step = rows.step[known]
    _, block = np.unique((step - step.min(initial=0)) // block_bars, return_inverse=True)
    if len(z) < _LEAST_ROWS or (blocks := int(block.max()) + 1) < _LEAST_BLOCKS:
        return float("nan")
    skill = float((z * at).mean())
    sign = np.sign(skill)
    sums = np.bincount(block, weights=sign * z * (1.5 * (at - after) - 0.5 * (before - second)))
    # Skill that turns from bar to bar, as bouncing prices do, has no end here.
    turns = min(sign * float((z * near).mean()) for near in (before, after)) < -0.5 * abs(skill)
    if turns or sums.sum() <= 0:
        return 0.0
    error = sums.std(ddof=1) * np.sqrt(blocks)
    return float(sums.sum() / error) if error > 0 else float("inf")


def _later_prices(skill: Sequence[LaterSkill], market: PredictionMarket) -> GateRule:
    name = "leak: later prices"
    measured = [item for item in skill if np.isfinite(item.beyond)]
    if not measured:
        return GateRule(name, True, np.nan, MOST_LATER, "too few rows to compare")
    worst = max(measured, key=lambda item: abs(item.beyond) / _limit(item, market))
    limit = _limit(worst, market)
    return GateRule(
        name,
        abs(worst.beyond) < limit,
        abs(worst.beyond),
        limit,
        f"correlation with the return of the {_ordinal(worst.bar)} bar after the decision, beyond what past returns "
        "tell",
    )


def _limit(item: LaterSkill, market: PredictionMarket) -> float:
    return MOST_NEXT if item.bar <= market.delay_bars else MOST_LATER


def _abrupt_end(skill: Sequence[LaterSkill]) -> GateRule:
    name = "leak: abrupt end of skill"
    tested = [item for item in skill if np.isfinite(item.edge) or item.edge == np.inf]
    if not tested:
        return GateRule(name, True, np.nan, MOST_SIGMA, "too few blocks of time to test")
    worst = max(tested, key=lambda item: item.edge)
    return GateRule(
        name,
        worst.edge < MOST_SIGMA,
        worst.edge,
        MOST_SIGMA,
        f"standard errors by which skill ends after the {_ordinal(worst.bar)} bar after the decision, as if prices "
        "up to there were known"
        if worst.edge >= MOST_SIGMA
        else f"standard errors by which skill ends at a bar, over {len(tested)} later bars",
    )


def _revisions(rows: _Rows, market: PredictionMarket) -> GateRule:
    name = "leak: later corrections"
    with np.errstate(invalid="ignore", divide="ignore"):
        change = np.log(market.revised / market.price)[rows.instrument, rows.step] / rows.volatility
    beyond, count = rows.beyond_past(np.where(np.abs(change) > 1e-12, change, np.nan))
    if not np.isfinite(beyond):
        return GateRule(
            name, True, np.nan, MOST_LATER, f"{count} prices of decided bars were corrected later"
        )
    return GateRule(
        name,
        abs(beyond) < MOST_LATER,
        abs(beyond),
        MOST_LATER,
        f"correlation with the corrections of {count:,} prices that came after the decision",
    )


def _unknown_bars(opinions: Sequence[Predictions], market: PredictionMarket) -> GateRule:
    found = sum(int((~market.could_know[part.instrument, part.step]).sum()) for part in opinions)
    return GateRule(
        "leak: unknown bars",
        found == 0,
        float(found),
        0.0,
        "predictions on bars for which nothing of the instrument had been observed, then or later",
    )


def _standardised(values: np.ndarray) -> np.ndarray:
    spread = values.std() if len(values) else 0.0
    return (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _ordinal(number: int) -> str:
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number % 100 not in (11, 12, 13) else 0, "th")
    return f"{number}{suffix}"
