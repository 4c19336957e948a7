"""What each feature says by itself: IC by horizon, decay, redundancy and coverage, over the bars of a selection.

It describes a whole range, so it chooses nothing honestly: a feature that is picked for its figures here has seen its
test. A night with a recipe of its own is the test (`tickwalk compare`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from features.feature import FeatureBlock
from features.panel.panel import Panel
from features.sets import feature_sets, get_set
from storage.errors import SettingsError
from training.data.labels import LabelRule, make_labels
from training.evaluation.breakdown import LabelledRows, decay, newey_west, products_by_time

HORIZONS: Final = (1, 5, 15, 60)
"""Bars from entry to exit of the labels."""
_DECAY_STEPS: Final = (0, 1, 5, 15, 60)
_VOLATILITY_BARS: Final = 60
_SAMPLE: Final = 20_000
SIMILAR: Final = 0.9
"""Correlation from which two features tell nearly the same."""


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """Figures of one feature.

    Args:
        feature: its name.
        coverage: share of the bars on which it is valid.
        ic, t: by horizon of `HORIZONS`: correlation with the label over that many bars, and its t-value with the
            autocorrelation of overlapping labels; NaN where undefined.
        decay: (bars, IC) with the label of the shortest horizon, entered that many bars later.
        nearest: the feature with the largest absolute correlation with it, and the correlation; empty for a set of one.
        group: number of the group of features that are similar, directly or through others, from 1.
    """

    feature: str
    coverage: float
    ic: tuple[float, ...]
    t: tuple[float, ...]
    decay: tuple[tuple[int, float], ...]
    nearest: tuple[str, float]
    group: int


def set_of(name: str) -> str:
    """Return the feature set of that name, or the smallest set that has a feature of that name.

    Raises:
        SettingsError: there is neither.
    """
    sets = feature_sets()
    if name in sets:
        return name
    having = [key for key, features in sets.items() if any(item.name == name for item in features)]
    if not having:
        raise SettingsError(
            f"no feature or feature set is called {name!r}", hint="list them with: tickwalk features list"
        )
    return min(having, key=lambda key: len(sets[key]))


def report_features(
    panel: Panel,
    block: FeatureBlock,
    names: Sequence[str],
    *,
    grace_ns: int,
    on_feature: Callable[[str], None] = lambda _: None,
) -> list[FeatureReport]:
    """Return the figures of some features of a block.

    Args:
        panel: the bars.
        block: the features of their set.
        names: of the features.
        grace_ns: of the bars.
        on_feature: called with the name of each feature once it is done.
    """
    labels = []
    for horizon in HORIZONS:
        made = make_labels(panel, LabelRule(horizon, volatility_bars=_VOLATILITY_BARS), grace_ns=grace_ns)
        labels.append(torch.where(made.mask, made.label, math.nan).numpy())
    correlations = _correlations(block)
    groups = _groups(correlations)
    found = []
    for name in names:
        place = block.names.index(name)
        rows = [_rows(block, place, label) for label in labels]
        means = [
            newey_west(products_by_time(part), lags=horizon)
            for part, horizon in zip(rows, HORIZONS, strict=True)
        ]
        found.append(
            FeatureReport(
                feature=name,
                coverage=float(block.mask[..., place].to(torch.float64).mean()),
                ic=tuple(mean.value if len(part.step) and np.ptp(part.prediction) else math.nan
                         for mean, part in zip(means, rows, strict=True)),
                t=tuple(mean.t for mean in means),
                decay=tuple(decay(rows[0], labels[0], _DECAY_STEPS)),
                nearest=_nearest(block, correlations, place),
                group=groups[place],
            )
        )  # fmt: skip
        on_feature(name)
    return found


def names_of(name: str) -> list[str]:
    """Return the features that a name stands for: those of a set, or one."""
    chosen = set_of(name)
    return [item.name for item in get_set(chosen)] if chosen == name else [name]


def _rows(block: FeatureBlock, place: int, label: np.ndarray) -> LabelledRows:
    """Return the labelled rows on which a feature is valid; each instrument is standardised by itself."""
    instrument, step = np.nonzero(block.mask[..., place].numpy())
    values = block.values[..., place].numpy()[instrument, step]
    return LabelledRows.of(instrument, step, values, label[instrument, step], instrument)


def _correlations(block: FeatureBlock) -> np.ndarray:
    """Return the correlation of each two features, (F, F), on rows where both are valid; 0 where there are few."""
    values = block.values.flatten(0, 1).numpy()
    mask = block.mask.flatten(0, 1).numpy()
    some = np.flatnonzero(mask.any(axis=1))
    if len(some) > _SAMPLE:
        some = some[np.linspace(0, len(some) - 1, _SAMPLE).astype(np.int64)]
    x, known = values[some].astype(np.float64), mask[some].astype(np.float64)
    count = np.maximum(known.sum(axis=0), 1.0)
    x = np.where(known > 0, x - (x * known).sum(axis=0) / count, 0.0)
    spread = np.sqrt((x * x).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        x = np.where(spread > 0, x / spread, 0.0)
    # Of both: the sums of squares are those of the rows where the other is valid, too.
    both = np.sqrt((x * x).T @ known) * np.sqrt((x * x).T @ known).T
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = np.where(both > 1e-12, (x.T @ x) / both, 0.0)
    return found


def _groups(correlations: np.ndarray) -> list[int]:
    """Return a number for each feature, the same for those that `SIMILAR` pairs connect."""
    group = list(range(len(correlations)))
    for i, j in zip(*np.nonzero(np.triu(np.abs(correlations) >= SIMILAR, 1)), strict=True):
        low, high = sorted((group[i], group[j]))
        group = [low if number == high else number for number in group]
    order = {number: place for place, number in enumerate(dict.fromkeys(group), start=1)}
    return [order[number] for number in group]


def _nearest(block: FeatureBlock, correlations: np.ndarray, place: int) -> tuple[str, float]:
    others = np.abs(correlations[place])
    others[place] = -1.0
    if len(others) < 2:
        return "", math.nan
    best = int(others.argmax())
    return block.names[best], float(correlations[place, best])


def report_rows(reports: Sequence[FeatureReport], *, is_short: bool = False) -> list[dict[str, Any]]:
    """Return one row a feature, for a table; a short one has no decay."""
    later = [
        " ".join(f"{bars}:{value:+.3f}" for bars, value in item.decay if math.isfinite(value))
        for item in reports
    ]
    return [
        {
            "feature": item.feature,
            "coverage": round(item.coverage, 4),
            **{
                f"ic_{horizon}": _text(value, t)
                for horizon, value, t in zip(HORIZONS, item.ic, item.t, strict=True)
            },
            **({} if is_short else {"later": shown}),
            "nearest": f"{item.nearest[0]} ({item.nearest[1]:+.2f})" if item.nearest[0] else "",
            "group": item.group,
        }
        for item, shown in zip(reports, later, strict=True)
    ]


def _text(value: float, t: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:+.3f}" + (f" (t {t:+.1f})" if math.isfinite(t) else "")
