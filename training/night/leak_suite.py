"""The leak suite of every night: skill must vanish where it cannot be, and a planted leak must be found.

Three checks on the night's own folds, before anything is trained. Each fits ridge regressions, which cost little and
find any leak that is linear in the features; 10,000 rows of each part of a fold are enough for them.

1. *Shuffled labels*. The labels of the train and valid rows are shifted in a circle along the time of each instrument,
   by 25 to 75 % of its rows and less their mean, so that they keep their autocorrelation and lose their relation to the
   features. The mean correlation of predictions and true test labels must be 0. A single one is not: such models have
   skill of either sign by chance, up to 0.7 where prices trend. So each shuffle is used with both signs. Ridge is
   linear in the labels, the two skills are opposite, and their mean is 0 to rounding, unless labels reach the
   training or the scores by another way. The limit is 0.005.
2. *Shifted labels*. For labels some bars before and after the row's own, two models are compared: of price history
   alone, and of prices and features. Labels that are over by the decision are part of price history. Of labels that
   begin after it, features that explain more than 25 % of what prices leave, at a bound of 0.1 %, are a finding: as
   much as an information coefficient of 0.5 beyond prices.
3. *A planted leak*: the second check again with a feature that contains the label and half as much noise as prices
   leave of it. If it is not found, the suite is broken and the night fails.

A night whose tests have fewer than 20 blocks of two label spans cannot be checked, and promotes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch

from storage.errors import LeakError
from training.data.folds import Fold
from training.evaluation.extra_skill import (
    ExtraSkill,
    correlate,
    measure_extra_skill,
)
from training.models.baseline import BarRows
from training.models.device import derive_seed
from training.models.ridge import Ridge
from training.night.artifacts import NightData
from training.night.label_shifts import LabelShiftRows, shifts_of
from training.recipe import Recipe

LEAK_SUITE: Final = "leak_suite.json"
SHUFFLES: Final = 10
MOST_SHUFFLED_IC: Final = 0.005
"""Mean correlation with the true test labels that models of shuffled labels may reach."""
LEVEL: Final = 0.001
"""Probability that the bound of the second check exceeds the true share."""
MOST_EXTRA: Final = 0.25
"""Share of what price history leaves of a later label that features may explain."""
_SHIFT_SHARES: Final = (0.25, 0.75)
_NOISE: Final = 0.5
_MOST_KEPT: Final = 0.9


@dataclass(frozen=True, slots=True)
class ShuffledLabels:
    """Skill of models that were trained on shuffled labels.

    Args:
        ic: of each shuffle, first with one sign and then with the other, the mean over folds of the correlation of
            predictions and true test labels.
        true_ic: the same of a model of the true labels.
        kept: largest correlation of shuffled and true labels of the train rows.
    """

    ic: tuple[float, ...]
    true_ic: float
    kept: float

    @property
    def mean(self) -> float:
        """The statistic."""
        return float(np.mean(self.ic))

    @property
    def passed(self) -> bool:
        """Whether the skill vanishes."""
        return abs(self.mean) <= MOST_SHUFFLED_IC


@dataclass(frozen=True, slots=True)
class ShiftedLabel:
    """Skill for labels a number of bars after the row's own.

    Args:
        bars: the shift; negative: before.
        over: share of the label's span that is over at the decision.
        skill: of both models.
    """

    bars: int
    over: float
    skill: ExtraSkill

    @property
    def is_later(self) -> bool:
        """Whether the span begins no earlier than that of the row's own label."""
        return self.bars >= 0

    @property
    def is_finding(self) -> bool:
        """Whether the features know a label that begins after the decision."""
        return self.is_later and self.skill.extra > MOST_EXTRA and self.skill.low > 0.0


@dataclass(frozen=True, slots=True)
class LeakSuiteResult:
    """Outcome of the suite.

    Args:
        reason: what was found, or why nothing could be; empty where all checks passed.
        folds: indices of the folds that were used.
        rows: test rows of the row's own label.
        shuffled: the first check; `None` where no fold could be used.
        shifts: the second check, in the order of the shifts.
        planted: the third check; its `skill` has the planted feature.
    """

    reason: str
    folds: tuple[int, ...]
    rows: int
    shuffled: ShuffledLabels | None
    shifts: tuple[ShiftedLabel, ...]
    planted: ShiftedLabel | None

    @property
    def is_decided(self) -> bool:
        """Whether the tests were long enough."""
        return self.planted is not None and math.isfinite(self.planted.skill.low)

    def to_dict(self) -> dict[str, Any]:
        """Return the value of `leak_suite.json`."""
        shuffled, planted = self.shuffled, self.planted
        return {
            "passed": not self.reason,
            "reason": self.reason,
            "is_decided": self.is_decided,
            "folds": list(self.folds),
            "rows": self.rows,
            "level": LEVEL,
            "most_extra": MOST_EXTRA,
            "shuffled": None
            if shuffled is None
            else asdict(shuffled)
            | {"mean": shuffled.mean, "limit": MOST_SHUFFLED_IC, "passed": shuffled.passed},
            "shifts": [_describe(item) for item in self.shifts],
            "planted": None
            if planted is None
            else _describe(planted) | {"is_caught": not self.is_decided or planted.is_finding},
        }


def run_leak_suite(data: NightData, folds: Sequence[Fold], recipe: Recipe, *, seed: int) -> LeakSuiteResult:
    """Run all checks on a night's data and folds.

    Args:
        data: panel, features and labels.
        folds: of the night.
        recipe: sets labels and stride.
        seed: of the night.

    Raises:
        LeakError: the planted leak was not found, so the suite is broken.
    """
    draw = np.random.default_rng(derive_seed(seed, "leak suite"))
    views = [LabelShiftRows(data, fold, recipe) for fold in folds]
    usable = tuple(view for view in views if len(view.rows(0)) and min(map(len, view.rows(0))) > 1)
    if not usable:
        reason = "cannot be checked: no fold has train, valid and test rows"
        return LeakSuiteResult(reason, (), 0, None, (), None)
    shuffled = _shuffled(usable, draw)
    shifts = tuple(found for bars in shifts_of(data) if (found := _shifted(usable, bars)))
    own = next(item for item in shifts if item.bars == 0)
    left = math.sqrt(max(1.0 - max(own.skill.prices, 0.0) ** 2, 0.0))
    planted = _shifted(usable, 0, noise=_NOISE * left, draw=draw)
    assert planted is not None
    result = LeakSuiteResult(
        reason=_reason(usable, shuffled, shifts, planted),
        folds=tuple(view.fold.index for view in usable),
        rows=sum(len(view.rows(0)[2]) for view in usable),
        shuffled=shuffled,
        shifts=shifts,
        planted=planted,
    )
    if shuffled.kept > _MOST_KEPT:
        raise _broken_error(
            f"shuffled labels still have a correlation of {shuffled.kept:.2f} with the true ones",
            "shuffled labels",
        )
    if result.is_decided and not planted.is_finding:
        raise _broken_error(
            f"it did not find a planted feature that contains the label (it explains {planted.skill.extra:.0%} of what "
            f"prices leave, lower bound {planted.skill.low:.0%})",
            "planted leak",
        )
    return result


def _broken_error(what: str, check: str) -> LeakError:
    return LeakError(
        f"the leak suite is broken: {what}",
        hint="fix training/night/leak_suite.py or what it calls; until then nothing is proven",
        check=check,
    )


# Shuffled labels.


def _shuffled(views: Sequence[LabelShiftRows], draw: np.random.Generator) -> ShuffledLabels:
    low, high = _SHIFT_SHARES
    shares = low + (high - low) * (np.arange(SHUFFLES) + draw.random(SHUFFLES)) / SHUFFLES
    by_fold, true_ic, weights, kept = [], [], [], 0.0
    for view in views:
        train, valid, test = view.rows(0)
        truth = view.label(test, 0, teaches=False)
        learnt, chosen = (
            view.features(index, view.label(index, 0, teaches=teaches), teaches=teaches)
            for index, teaches in ((train, True), (valid, False))
        )
        places = view.instruments(train), view.instruments(valid)
        tested = view.features(test, torch.zeros_like(truth), teaches=False)
        found = []
        for share in shares.tolist():
            for sign in (1.0, -1.0):
                shuffled = _shuffle(learnt, places[0], share, sign)
                predicted = _fit(shuffled, _shuffle(chosen, places[1], share, sign), tested)
                found.append(correlate(predicted, truth.numpy()))
                kept = max(kept, correlate(shuffled.label.numpy(), learnt.label.numpy()))
        by_fold.append(found)
        true_ic.append(correlate(_fit(learnt, chosen, tested), truth.numpy()))
        weights.append(len(test))
    ic = np.average(np.array(by_fold), axis=0, weights=weights)
    return ShuffledLabels(tuple(ic.tolist()), float(np.average(true_ic, weights=weights)), kept)


def _shuffle(table: BarRows, instrument: np.ndarray, share: float, sign: float) -> BarRows:
    """Return rows with the labels of each instrument moved in a circle by a share of its rows, less their mean.

    Without the mean, instruments that rise or fall over the whole range give no skill.
    """
    label = table.label.clone()
    for number in np.unique(instrument):
        rows = torch.from_numpy(np.flatnonzero(instrument == number))
        label[rows] = (label[rows] - label[rows].mean()).roll(round(share * len(rows)))
    return BarRows(table.x, table.mask, table.past, sign * label)


def _fit(train: BarRows, valid: BarRows, test: BarRows) -> np.ndarray:
    """Return the predictions for test rows of a ridge regression whose shrinkage valid rows choose."""
    predicted: np.ndarray = Ridge.fit(train, valid).predict(test).numpy()
    return predicted


# Shifted labels.


def _shifted(
    views: Sequence[LabelShiftRows], bars: int, *, noise: float = 0.0, draw: np.random.Generator | None = None
) -> ShiftedLabel | None:
    """Return the skill for labels `bars` after the row's own; `None` if no fold has them.

    Args:
        views: the folds.
        bars: the shift.
        noise: of the planted feature, in standard deviations of the label.
        draw: draws the noise; `None`: no feature is planted.
    """
    found: dict[str, list[np.ndarray]] = {"prices": [], "features": [], "label": [], "fold": [], "block": []}
    for view in views:
        index = view.rows(bars)
        if min(map(len, index)) < 2:
            continue
        labels = [view.label(rows, bars, teaches=place == 0) for place, rows in enumerate(index)]
        prices = [view.prices(rows, label) for rows, label in zip(index, labels, strict=True)]
        both = [
            _join(one, view.features(rows, label, teaches=place == 0))
            for place, (rows, label, one) in enumerate(zip(index, labels, prices, strict=True))
        ]
        if draw is not None:
            both = [_join(part, _planted(part.label, noise, draw)) for part in both]
        found["prices"].append(_fit(*prices))
        found["features"].append(_fit(*both))
        found["label"].append(labels[2].numpy())
        found["fold"].append(np.full(len(index[2]), view.fold.index))
        found["block"].append(view.steps(index[2]))
    if not found["label"]:
        return None
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    # From the first row on, so that no block depends on where the panel starts.
    joined["block"] = (joined["block"] - joined["block"].min()) // views[0].block_steps
    enter, leave = views[0].enter, views[0].leave
    over = min(max(-(bars + enter), 0), leave - enter) / (leave - enter)
    return ShiftedLabel(bars, over, measure_extra_skill(**joined, level=LEVEL))


def _join(one: BarRows, other: BarRows) -> BarRows:
    return BarRows(
        torch.cat((one.x, other.x), dim=1), torch.cat((one.mask, other.mask), dim=1), one.past, one.label
    )


def _planted(label: torch.Tensor, noise: float, draw: np.random.Generator) -> BarRows:
    """Return a feature that contains the label."""
    drawn = torch.from_numpy(draw.standard_normal(len(label)))
    x = (label + noise * label.std() * drawn)[:, None].to(torch.float32)
    return BarRows(x, torch.ones_like(x), torch.zeros(len(label)), label)


# Findings.


def _reason(
    views: Sequence[LabelShiftRows],
    shuffled: ShuffledLabels,
    shifts: Sequence[ShiftedLabel],
    planted: ShiftedLabel,
) -> str:
    found = []
    if not shuffled.passed:
        found.append(
            f"shuffled labels: models trained on them have a mean skill of {shuffled.mean:+.3f} on the true test "
            f"labels (limit {MOST_SHUFFLED_IC}), so these labels reach the training or the scores"
        )
    if findings := [item for item in shifts if item.is_finding]:
        worst = max(findings, key=lambda item: item.skill.extra)
        name, agreed = _closest_feature(views, worst.bars)
        found.append(
            f"shifted labels: features explain {worst.skill.extra:.0%} of what price history leaves of labels that "
            f"begin {worst.bars} bars after the row's own (limit {MOST_EXTRA:.0%}), most of all {name}, correlated "
            f"{agreed:+.2f} with them, so they contain future prices"
        )
    if not found and not math.isfinite(planted.skill.low):
        found.append(f"cannot be checked: the tests have {planted.skill.blocks} blocks of time, of 20 needed")
    return "; ".join(found)


def _closest_feature(views: Sequence[LabelShiftRows], bars: int) -> tuple[str, float]:
    """Return the feature most correlated with the labels `bars` later on the last fold's test, and its correlation."""
    view = views[-1]
    index = view.rows(bars)[2]
    label = view.label(index, bars, teaches=False)
    x = view.features(index, label, teaches=False).x.numpy()
    agreed = [correlate(x[:, place], label.numpy()) for place in range(x.shape[1])]
    worst = int(np.argmax(np.abs(agreed)))
    return view.names[worst], agreed[worst]


def _describe(item: ShiftedLabel) -> dict[str, Any]:
    return {
        "bars": item.bars,
        "over": item.over,
        "is_finding": item.is_finding,
        **asdict(item.skill),
    }
