"""Paces of a night's steps: seconds per unit of work, from earlier nights of the recipe, or measured now.

The work of a fit is the number of rows that pass through the model: a row that trains counts once an epoch, one that is
only predicted a third. The work of the other steps is the number of cells, instruments times bars. A pace from earlier
nights includes that early stopping ends fits sooner than the recipe allows; one that is measured now does not, so the
estimate made of it is an upper one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from features.build import build_features
from features.feature import FeatureBlock, deepest_lookback
from features.leakage.perturbation import PROOF_STEPS
from features.panel.panel import Panel
from features.sets import get_set
from storage.errors import ProjectError, SettingsError
from storage.settings import Settings
from training.data.panel import Normaliser, PanelWindows
from training.models.baseline import BarRows
from training.models.controls import BASELINES, fit_baseline
from training.models.fit_rule import FitRule
from training.models.losses import n_outputs
from training.models.networks import make_network
from training.models.trainer import TrainingRows, fit_network
from training.night.artifacts import NightArtifacts
from training.recipe import Recipe

FOLD: Final = "fold"
"""The part of a fold's training that is none of its fits."""
COMPUTER: Final = ("device", "hardware", "threads")
"""Keys of `night.json` that an earlier night must share."""

_NIGHTS: Final = 5
_WARM_ROWS: Final = 64
_BATCHES: Final = 4
_LEAST_ROWS: Final = 2_048
_BUILD_STEPS: Final = 600
_PROOFS: Final = 30
"""Evaluations of all features by both proofs, each on up to `PROOF_STEPS` steps."""
_SUITE_FITS: Final = 15
"""Ridge regressions of the leak suite, on the rows of one epoch."""
_PREDICTED: Final = 1 / 3
"""Work of a row that is only predicted."""

Step = Callable[[str, int], None]
"""Fits a model to a number of rows for one epoch."""


@dataclass(frozen=True, slots=True)
class StepPaces:
    """Paces of a night's steps.

    Args:
        models: seconds per unit of work, by model.
        steps: seconds per cell of the panel, by step; `FOLD` is per fold.
        source: where they come from, in words.
    """

    models: Mapping[str, float]
    steps: Mapping[str, float]
    source: str


def fit_work(model: str, rows: Mapping[str, float], recipe: Recipe) -> float:
    """Return the work of a fit.

    Args:
        model: its name.
        rows: by part: `train` (of one epoch), `valid` and `test`.
        recipe: epochs and validations.
    """
    train, valid, test = rows["train"], rows["valid"], rows["test"]
    if model in BASELINES:
        return train + _PREDICTED * (valid + test)
    epochs, checks = recipe.fit.epochs, recipe.fit.checks
    return train * epochs + _PREDICTED * (valid * (epochs * checks + 1) + test)


def earlier_nights(settings: Settings, recipe: str, computer: Mapping[str, Any]) -> list[NightArtifacts]:
    """Return the newest nights of a recipe that ran on the same computer and trained something, newest first."""
    folders = [NightArtifacts.find(settings, night) for night in NightArtifacts.ids(settings)]
    found = [
        folder
        for folder in folders
        if folder.facts["recipe"]["name"] == recipe
        and all(folder.facts.get(name) == computer[name] for name in COMPUTER)
        and _is_readable(folder)
        and folder.has("panel.json")
        and any(folder.path.glob("timings/fits-*.json"))
    ]
    return sorted(found, key=lambda folder: (folder.facts["until_ns"], folder.path.name), reverse=True)


def _is_readable(folder: NightArtifacts) -> bool:
    """Return whether the recipe of a night can be read: the project may have lost its model since."""
    try:
        return bool(folder.recipe.models)
    except (SettingsError, ProjectError):
        return False


def paces_of(nights: Collection[NightArtifacts]) -> StepPaces:
    """Return the mean paces of nights: the sum of their seconds, divided by the sum of their work."""
    spent: dict[tuple[str, str], float] = defaultdict(float)
    work: dict[tuple[str, str], float] = defaultdict(float)
    chosen = list(nights)[:_NIGHTS]
    for folder in chosen:
        for kind, name, seconds, amount in _timings(folder):
            spent[kind, name] += seconds
            work[kind, name] += amount
    found = {key: seconds / work[key] for key, seconds in spent.items() if work[key] > 0}
    return StepPaces(
        models={name: pace for (kind, name), pace in found.items() if kind == "model"},
        steps={name: pace for (kind, name), pace in found.items() if kind == "step"},
        source=f"measured in {', '.join(folder.path.name for folder in chosen)}",
    )


def _timings(folder: NightArtifacts) -> Iterator[tuple[str, str, float, float]]:
    """Yield kind, name, seconds and work of each step and each fit of a night that was timed."""
    counts, recipe = folder.read("panel.json"), folder.recipe
    cells = float(counts["steps"] * counts["instruments"])
    for path in sorted(folder.path.glob("timings/*.json")):
        timing = folder.read(f"timings/{path.name}")
        step, _, fold = path.stem.rpartition("-")
        if step == "fits":
            yield from _fit_timings(folder, recipe, int(fold), timing)
        elif step == "train_fold" and folder.has(fits := f"timings/fits-{fold}.json"):
            fitted = sum(entry.get("seconds", 0.0) for entry in folder.read(fits).values())
            yield "step", FOLD, max(timing.get("busy_s", timing["seconds"]) - fitted, 0.0), cells
        elif not step and "seconds" in timing and path.stem != "estimate":
            yield "step", path.stem, timing["seconds"], cells


def _fit_timings(
    folder: NightArtifacts, recipe: Recipe, fold: int, fits: Mapping[str, Any]
) -> Iterator[tuple[str, str, float, float]]:
    for member, entry in fits.items():
        if (seconds := entry.get("seconds")) is not None:
            rows = folder.read(f"fold-{fold:02d}/{member}/metrics.json")["rows"]
            model = member.partition("+")[0]
            yield "model", model, seconds, fit_work(model, rows, recipe)


def measured_paces(
    recipe: Recipe,
    panel: Panel,
    *,
    clock: Callable[[], float],
    step: Step,
    build: Callable[[Panel], object],
    known: StepPaces | None = None,
) -> StepPaces:
    """Return paces from a few steps of each model, and from features of a few bars.

    Args:
        recipe: the models and the features.
        panel: the bars of the night.
        clock: returns seconds.
        step: fits a model to rows.
        build: builds the features of a part of the panel.
        known: paces of earlier nights, which are kept.
    """
    models = dict(known.models) if known else {}
    rows = max(_BATCHES * recipe.fit.batch, _LEAST_ROWS)
    for name in dict.fromkeys(recipe.models):
        if name not in models:
            step(name, _WARM_ROWS)
            began_s = clock()
            step(name, rows)
            models[name] = max(clock() - began_s, 0.0) / rows
    if known and known.steps:
        return replace(known, models=models)
    fixed_s, pace = _build_seconds(panel, deepest_lookback(get_set(recipe.feature_set)), build, clock)
    cells = panel.n_steps * panel.n_instruments
    proven = min(panel.n_steps, PROOF_STEPS) / panel.n_steps
    steps = {
        "build_panel": (1 + _PROOFS) * fixed_s / cells + pace * (1 + _PROOFS * proven),
        "plan_folds": pace,
        "leak_suite": pace + _SUITE_FITS * models.get("ridge", 0.0) / recipe.stride,
        FOLD: pace,
        "judge_night": pace,
    }
    return StepPaces(models, steps, "measured by a few steps of each model")


def _build_seconds(
    panel: Panel, lookback: int, build: Callable[[Panel], object], clock: Callable[[], float]
) -> tuple[float, float]:
    """Return the seconds of building features that do not depend on the number of cells, and those for each cell."""
    taken, cells = [], []
    for steps in (lookback + _BUILD_STEPS // 4, lookback + 2 * _BUILD_STEPS):
        part = panel.steps(-min(panel.n_steps, steps), None)
        build(part)
        began_s = clock()
        build(part)
        taken.append(max(clock() - began_s, 0.0))
        cells.append(part.n_steps * part.n_instruments)
    if cells[0] == cells[1]:
        return 0.0, taken[1] / cells[1]
    pace = max((taken[1] - taken[0]) / (cells[1] - cells[0]), 0.0)
    return max(taken[0] - pace * cells[0], 0.0), pace


def real_step(recipe: Recipe, *, device: torch.device, threads: int) -> Step:
    """Return the function that fits a model of a recipe to random rows."""
    features = len(get_set(recipe.feature_set))
    draw = torch.Generator().manual_seed(0)

    def fit(name: str, rows: int) -> None:
        values = torch.randn(1, rows, features, generator=draw)
        label = torch.randn(rows, generator=draw)
        mask = torch.ones(values.shape, dtype=torch.bool)
        if name in BASELINES:
            table = BarRows(values[0], mask[0].to(torch.float32), label.to(torch.float64), label)
            fit_baseline(name, table, table, seed=0, threads=threads)
            return
        index = torch.arange(rows)
        fit_network(
            make_network(
                name,
                window_bars=recipe.window_bars,
                n_features=features,
                seed=0,
                outputs=n_outputs(recipe.fit.loss),
            ),
            _windows_of(values, mask, recipe, device),
            TrainingRows(index, label, torch.ones(rows, dtype=torch.bool)),
            None,
            _one_epoch(recipe.fit),
            seed=0,
            points=1,
        )

    return fit


def _one_epoch(rule: FitRule) -> FitRule:
    # A large learning rate of the recipe must not end a measurement with an error.
    return replace(rule, epochs=1, checks=1, learning_rate=min(rule.learning_rate, 1e-3), warmup_epochs=0.0)


def random_windows(recipe: Recipe, *, rows: int, device: torch.device) -> PanelWindows:
    """Return windows of random features of one instrument, of a recipe's shape."""
    values = torch.randn(
        1, rows, len(get_set(recipe.feature_set)), generator=torch.Generator().manual_seed(0)
    )
    return _windows_of(values, torch.ones(values.shape, dtype=torch.bool), recipe, device)


def _windows_of(
    values: torch.Tensor, mask: torch.Tensor, recipe: Recipe, device: torch.device
) -> PanelWindows:
    block = FeatureBlock(
        names=tuple(item.name for item in get_set(recipe.feature_set)),
        values=values,
        mask=mask,
        instruments=("measured",),
        width_ns=1,
        ts_open_ns=np.arange(values.shape[1], dtype=np.int64),
        fingerprint="",
    )
    n_features = values.shape[2]
    plain = Normaliser(
        torch.zeros(n_features, dtype=torch.float64), torch.ones(n_features, dtype=torch.float64), clip=5.0
    )
    return PanelWindows(block, plain, window_bars=recipe.window_bars, device=device)


def real_build(recipe: Recipe) -> Callable[[Panel], object]:
    """Return the function that builds a recipe's features of a panel."""
    return lambda panel: build_features(panel, recipe.feature_set)
