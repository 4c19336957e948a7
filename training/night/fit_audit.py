"""Audit of the fits of a night: that each saw its train rows, was validated on its valid rows, and was chosen before.

The rows of each part are found here again, from the windows in `folds.json` and the clocks of the labels, and compared
with what the fits left behind:

- the *normaliser* of every checkpoint: mean and deviation of the train rows;
- the *rows* of the stored predictions: those of the test, and those of the valid window;
- the *validation loss* of each network's best point: that of the valid rows;
- *ridge*: fitted again to the train rows, with the shrinkage that the valid rows choose;
- the *choice* of a model before each test: that of the periods that end before it.

It costs about as much as the ridge of each fold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import torch

from storage.errors import LeakError
from training.data.folds import Fold
from training.data.panel import Normaliser
from training.data.stride import stride_phase
from training.data.weights import uniqueness_weights
from training.evaluation.period_net import complete_periods, net_by_period
from training.evaluation.positions import PositionLedger
from training.evaluation.selection import choose
from training.models.baseline import BarRows
from training.models.checkpoint import MANIFEST, load_checkpoint
from training.models.device import derive_seed
from training.models.losses import LossRows, group_by_time, prediction_loss
from training.models.ridge import Ridge
from training.models.trainer import information_coefficient
from training.night.artifacts import (
    TEST_PREDICTIONS,
    VALID_PREDICTIONS,
    NightArtifacts,
    NightData,
    Predictions,
)
from training.night.lineage_path import LineagePath, least_block
from training.night.scoring import EvaluationWindow
from training.recipe import Recipe

FIT_AUDIT: Final = "fit_audit.json"
_RIDGE: Final = "ridge"
_MOMENTS: Final = 1e-6
"""Relative tolerance of a mean or deviation, whose sums may be added in another order."""
_LOSS: Final = 1e-4
_WEIGHTS: Final = 1e-4


@dataclass(frozen=True, slots=True)
class FitAudit:
    """Number of normalisers, sets of predictions, validation losses, ridges and choices that were compared."""

    normalisers: int
    predictions: int
    losses: int
    ridges: int
    choices: int

    def to_dict(self) -> dict[str, int]:
        """Return the value of `fit_audit.json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a fold as (S, T) bool masks, and the moments of its train rows, (F,) float64 each."""

    train: torch.Tensor
    valid: torch.Tensor
    validated: torch.Tensor
    test: torch.Tensor
    mean: np.ndarray
    std: np.ndarray


def audit_fits(folder: NightArtifacts, folds: Sequence[Fold], data: NightData, recipe: Recipe) -> FitAudit:
    """Compare all fits of a night with the rows of their folds; choices are compared by `audit_choices`.

    Raises:
        LeakError: a fit saw other rows than those of its part; the error names the fit and what differs.
    """
    losses = ridges = 0
    for fold in folds:
        rows = _rows_of(fold, data, recipe)
        for model, number in recipe.trained:
            path = folder.model_path(fold.index, model, number)
            name = f"{folder.model_name(model, number)} on fold {fold.index}"
            _check_normaliser(folder, path, name, rows, data)
            tested, validated = (
                folder.read_predictions(path, file) for file in (TEST_PREDICTIONS, VALID_PREDICTIONS)
            )
            _check_rows(tested, rows.test, data, f"the test predictions of {name}")
            _check_rows(validated, rows.validated, data, f"the validation predictions of {name}")
            losses += _check_loss(folder, path, name, rows, recipe, tested, validated)
            if model == _RIDGE:
                _check_ridge(folder, path, name, rows, data, recipe)
                ridges += 1
    fits = len(folds) * len(recipe.trained)
    return FitAudit(fits, 2 * fits, losses, ridges, 0)


def audit_choices(
    path: LineagePath,
    ledgers: Mapping[str, PositionLedger],
    window: EvaluationWindow,
    folds: Sequence[Fold],
    recipe: Recipe,
    *,
    earlier: Sequence[Mapping[str, np.ndarray]],
    width_ns: int,
    period_ns: int,
    seed: int,
) -> int:
    """Compare the choice before each test with that of the periods that end before it; return the number of choices.

    Args:
        path: the choices.
        ledgers: backtests over the window of all tests, by model and seed.
        window: that window.
        folds: oldest first.
        recipe: order of the models.
        earlier: by fold, then model: net by period before all tests.
        width_ns: width of a bar.
        period_ns: length of a period.
        seed: of the night.

    Raises:
        LeakError: a choice used another period.
    """
    closes_ns = window.market.ts_close_ns
    first, bars = complete_periods(closes_ns, width_ns=width_ns, period_ns=period_ns)
    nets = {name: net_by_period(ledgers[name].net, first, bars) for name in recipe.models}
    for fold, own, made in zip(folds, earlier, path.by_fold, strict=True):
        # A period starts one bar before the close of its first bar.
        before = closes_ns[first] - width_ns + period_ns <= fold.test.start_ns
        expected = choose(
            {name: np.concatenate([own[name], nets[name][before]]) for name in recipe.models},
            order=recipe.models,
            least_block=least_block(recipe, width_ns=width_ns, period_ns=period_ns),
            seed=derive_seed(seed, "choice"),
        )
        if made != expected:
            raise LeakError(
                f"validation is a test: {made.model} was chosen for the test of fold {fold.index} by other periods "
                f"than those that end before it, which choose {expected.model}",
                hint="a choice may use no period of its own test or later; check training/night/lineage_path.py",
                check="choices",
                fold=fold.index,
            )
    return len(folds)


def _rows_of(fold: Fold, data: NightData, recipe: Recipe) -> _Rows:
    """Return the rows of a fold's parts, from its windows and the clocks of the labels alone."""
    labels, lessons = data.labels, data.teaching
    decided, ends = labels.ts_decided_ns, labels.ts_span_end_ns
    phase = stride_phase(data.panel.ts_open_ns, width_ns=data.panel.width_ns, stride=recipe.stride)

    def steps(part: str, reach_ns: int, embargo_ns: int, *, is_labelled: bool) -> torch.Tensor:
        span = getattr(fold, part)
        inside = (decided >= span.start_ns + embargo_ns) & (decided < span.stop_ns)
        return torch.from_numpy(inside & (ends <= reach_ns) if is_labelled else inside)

    known, taught = data.block.mask.any(dim=-1), lessons.block.mask.any(dim=-1)
    train = steps("train", fold.valid.start_ns, 0, is_labelled=True) & lessons.labels.mask & taught
    valid = steps("valid", fold.test.start_ns, fold.embargo_ns, is_labelled=True)
    test = steps("test", 0, fold.embargo_ns, is_labelled=False)
    seen = lessons.block.mask[train]
    values = torch.where(seen, lessons.block.values[train].to(torch.float64), 0.0)
    count = seen.sum(dim=0).clamp(min=1)
    mean = values.sum(dim=0) / count
    variance = (torch.where(seen, values - mean, 0.0) ** 2).sum(dim=0) / count
    return _Rows(
        train=train,
        valid=valid & torch.from_numpy(phase == 0) & labels.mask & known,
        validated=valid & labels.decidable & known,
        test=test & labels.decidable & known,
        mean=mean.numpy(),
        std=torch.sqrt(variance).numpy(),
    )


def _check_normaliser(folder: NightArtifacts, path: str, name: str, rows: _Rows, data: NightData) -> None:
    stored = json.loads((folder.path / path / MANIFEST).read_bytes())["normaliser"]
    scale = np.where(rows.std > 1e-12, rows.std, 1.0)
    for what, given, expected in (
        ("mean", np.array(stored["mean"]), rows.mean),
        ("deviation", np.array(stored["std"]), scale),
    ):
        error = np.abs(given - expected) / np.maximum(scale, np.abs(expected))
        if bool((error > _MOMENTS).any()):
            place = int(error.argmax())
            raise LeakError(
                f"the normaliser of {name} was not fitted to its train rows alone: its {what} of "
                f"{data.block.names[place]} is {given[place]:.6g}, that of the train rows {expected[place]:.6g}",
                hint="a normaliser of other rows knows the test; check training/night/fold_training.py",
                check="normaliser",
                feature=data.block.names[place],
            )


def _check_rows(found: Predictions, expected: torch.Tensor, data: NightData, what: str) -> None:
    given = np.sort(found.instrument.astype(np.int64) * data.panel.n_steps + found.step)
    wanted = torch.nonzero(expected.flatten()).squeeze(-1).numpy()
    if not np.array_equal(given, wanted):
        strange = np.setdiff1d(given, wanted)
        raise LeakError(
            f"{what} are of other rows than those of its window: {len(strange)} do not belong to it and "
            f"{len(np.setdiff1d(wanted, given))} are missing",
            hint="check the rows in training/night/fold_training.py and the windows in folds.json",
            check="rows",
        )


def _check_loss(
    folder: NightArtifacts,
    path: str,
    name: str,
    rows: _Rows,
    recipe: Recipe,
    tested: Predictions,
    validated: Predictions,
) -> int:
    """Compare the validation loss of a network's best point with that of its valid rows; return 1 if there is one."""
    history = folder.read(f"{path}/metrics.json")["history"]
    if not history:
        return 0
    best = min(
        (entry for entry in history if entry["valid_loss"] is not None), key=lambda entry: entry["valid_loss"]
    )
    # The stored predictions of quantiles are medians, which have no pinball loss of the others, but an IC.
    kind = "valid_ic" if recipe.fit.loss == "quantiles" else "valid_loss"
    given = math.nan if best[kind] is None else best[kind]
    expected = _criterion(validated, rows.valid, recipe)
    if not np.isclose(given, expected, rtol=_LOSS, equal_nan=True):
        of_test = np.isclose(given, _criterion(tested, rows.test, recipe), rtol=_LOSS)
        raise LeakError(
            f"validation is a test: the validation loss of {name} is {given:.6g}, that of its valid rows "
            f"{expected:.6g}" + (", and that of its test rows the same" if of_test else ""),
            hint="the best epoch may be chosen on valid rows only; check training/night/fold_training.py",
            check="validation",
        )
    return 1


def _criterion(found: Predictions, rows: torch.Tensor, recipe: Recipe) -> float:
    """Return the validation loss of predictions on those of their rows that are in `rows`; of quantiles the IC."""
    used = rows.numpy()[found.instrument, found.step] & np.isfinite(found.label)
    label, prediction = torch.from_numpy(found.label[used]), torch.from_numpy(found.prediction[used])
    if recipe.fit.loss == "quantiles":
        return information_coefficient(prediction, label)
    weight = None
    if recipe.label.weights == "uniqueness":
        place = torch.from_numpy(found.instrument[used]).long(), torch.from_numpy(found.step[used]).long()
        labelled = torch.zeros_like(rows)
        labelled[place] = True
        weight = uniqueness_weights(labelled, recipe.label.horizon_bars)[place]
    group = group_by_time(torch.from_numpy(found.step[used]).long())
    labels = LossRows(label, torch.ones(len(label), dtype=torch.bool), weight, group)
    return float(prediction_loss(recipe.fit.loss, prediction, labels, delta=recipe.fit.huber_delta))


def _check_ridge(
    folder: NightArtifacts, path: str, name: str, rows: _Rows, data: NightData, recipe: Recipe
) -> None:
    """Fit ridge again and compare its weights."""
    saved = load_checkpoint(folder.path / path, expect={})
    normaliser, lessons = Normaliser.from_plain(saved.normaliser), data.teaching
    phase = stride_phase(data.panel.ts_open_ns, width_ns=data.panel.width_ns, stride=recipe.stride)

    def table(part: torch.Tensor, *, teaches: bool) -> BarRows:
        block, labels = (lessons.block, lessons.labels) if teaches else (data.block, data.labels)
        mask = block.mask[part]
        x = normaliser.apply(block.values[part], mask)
        weight = None
        if recipe.label.weights == "uniqueness":
            weight = uniqueness_weights(part, recipe.label.horizon_bars)[part]
        return BarRows(x, mask.to(torch.float32), torch.zeros(len(x)), labels.label[part], weight)

    train = rows.train & torch.from_numpy(phase == 0)
    expected = Ridge.fit(table(train, teaches=True), table(rows.valid, teaches=False)).weights()
    given, shrinkage = saved.weights["coefficients"], int(saved.weights["shrinkage"])
    size = max(float(expected["coefficients"].abs().max()), 1e-12)
    error = float((given - expected["coefficients"]).abs().max())
    if shrinkage != int(expected["shrinkage"]) or error > _WEIGHTS * size:
        raise LeakError(
            f"{name} is not what its train and valid rows give: its shrinkage is {shrinkage}, those rows choose "
            f"{int(expected['shrinkage'])}, and its largest weight differs by {error / size:.2%}",
            hint="it was fitted or validated on other rows; check training/night/fold_training.py",
            check="ridge",
        )
