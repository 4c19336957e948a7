"""Training of every model and seed on one fold, and their scores on the same rows."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from storage.logs import get_logger
from training.data.folds import Fold, SplitRows, split_rows
from training.data.panel import Normaliser
from training.evaluation.conformal import ScoredRows, interval_coverage, interval_scores
from training.evaluation.metrics import Score
from training.models.checkpoint import CheckpointStamp, write_json
from training.models.device import derive_seed
from training.models.estimators import FittedModel, FoldContext, OnEpoch, fit_model, named_fit
from training.models.fit_health import check_predictions, check_training_rows
from training.night.artifacts import (
    STACKS,
    TEST_PREDICTIONS,
    VALID_PREDICTIONS,
    NightArtifacts,
    NightData,
    Predictions,
    fits_file,
    write_predictions,
)
from training.night.fit_store import FitStore, fit_id, recipe_of_fit, rows_digest
from training.night.scoring import make_fold_context, night_phase, score_folds
from training.night.stacking import stacking_name
from training.recipe import Recipe

logger = get_logger(__name__)

NO_SNAPSHOT: Final = -1
"""Snapshot in the stamp of a fold's fit, whose rows are named by their content and not by a snapshot."""


@dataclass(frozen=True, slots=True)
class FoldRows:
    """Row numbers of a fold, `s * T + t`, ascending; each (N,) int64.

    Rows that teach are those of the lessons where a night has any, numbered after all served rows.

    Args:
        train, valid: labelled rows of the stride's first phase (training/data/stride.py).
        validated: every row of the valid part on which a live system would have decided; choices trade on these.
        test: every row on which a live system would have decided, whether or not its label was observed later.
        seen: every labelled row of the train part, whatever its phase: the normaliser is fitted to these, and networks
            are trained on one phase of them in each epoch.
        labelled: number of labelled rows of the train part, with valid features or without.
    """

    train: torch.Tensor
    valid: torch.Tensor
    validated: torch.Tensor
    test: torch.Tensor
    seen: torch.Tensor
    labelled: int

    def by_use(self) -> dict[str, torch.Tensor]:
        """Return the row numbers by the name of their part."""
        return {part.name: getattr(self, part.name) for part in fields(self) if part.name != "labelled"}


def fold_rows(data: NightData, parts: SplitRows, recipe: Recipe) -> FoldRows:
    """Return the rows of a fold's parts; a row needs at least one valid feature."""
    lessons = data.teaching
    labelled, decidable, taught = usable_rows(data)
    on_stride = night_phase(data, recipe) == 0
    return FoldRows(
        train=_row_numbers(taught, parts.train & on_stride) + data.first_lesson,
        valid=_row_numbers(labelled, parts.valid & on_stride),
        validated=_row_numbers(decidable, parts.valid),
        test=_row_numbers(decidable, parts.test),
        seen=_row_numbers(taught, parts.train) + data.first_lesson,
        labelled=int(lessons.labels.mask[:, torch.from_numpy(parts.train)].sum()),
    )


@lru_cache(maxsize=1)
def usable_rows(data: NightData) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the rows of a night with a valid feature that are labelled, decidable, or teach; each (S, T) bool.

    All folds of a night share them: the masks of all features take longer to read than all else about rows.
    """
    lessons = data.teaching
    known = data.block.mask.any(dim=-1)
    taught = known if data.lessons is None else lessons.block.mask.any(dim=-1)
    return data.labels.mask & known, data.labels.decidable & known, lessons.labels.mask & taught


class FoldFits:
    """The fits of one fold: their rows, and their stamps, which name them in the store.

    Args:
        folder: the night.
        fold: the fold.
        data: of the night.
        device: that trains.
    """

    def __init__(self, folder: NightArtifacts, fold: Fold, data: NightData, device: torch.device) -> None:
        self.folder, self.fold, self.data, self._device = folder, fold, data, device
        self._facts, self.recipe = folder.facts, folder.recipe
        parts = split_rows(fold, data.labels.ts_decided_ns, data.labels.ts_span_end_ns)
        self.rows = fold_rows(data, parts, self.recipe)
        content = rows_digest(data, self.rows.by_use(), window_bars=self.recipe.window_bars)
        # In terms that do not depend on the night: a fold is the start of its test.
        night = folder.stamp(
            model=self.recipe.models[0],
            fold=fold.test.start_ns,
            seed=self._facts["seed"],
            feature_names=data.block.names,
            device=device.type,
        )
        # It is made once for all fits, as that takes longer than to link a known fit.
        self._origin = replace(
            night, recipe=recipe_of_fit(self.recipe), content_hash=content, snapshot=NO_SNAPSHOT
        )

    def stamp(self, model: str, number: int) -> CheckpointStamp:
        """Return the origin of one fit."""
        return replace(
            self._origin,
            model=model,
            seed=derive_seed(self._origin.seed, model, self.fold.test.start_ns, number),
            stacking=stacking_name(self._facts["stacking"].get(model, 0)),
            project_code=self._facts["project_code"].get(model, ""),
        )

    @cached_property
    def context(self) -> FoldContext:
        """Windows and labels, of rows that can train a model.

        Raises:
            FitError: they cannot.
        """
        rows = self.rows
        normaliser = fit_normaliser(self.data, rows.seen)
        context = make_fold_context(self.data, normaliser, self.recipe, self._device)
        check_training_rows(context, rows.seen, rows.valid, labelled=rows.labelled, fold=self.fold.index)
        return context


def is_trained(folder: NightArtifacts, fold: int, model: str, number: int) -> bool:
    """Return whether a night has the fit of one model and seed on a fold; `fit.json` is linked last."""
    return folder.has(f"{folder.model_path(fold, model, number)}/fit.json")


def train_models(
    own: FoldFits, *, members: Sequence[tuple[str, int]] | None = None, on_epoch: OnEpoch | None = None
) -> dict[str, Any]:
    """Train models and seeds that no night has trained on the same rows, and return the test IC of each.

    Several processes may train members of one fold at once.

    Args:
        own: the fold.
        members: models and numbers of seeds (default: all of the recipe).
        on_epoch: called at every validation point of a network with model, fold and log.

    Raises:
        FitError: the rows cannot train a model, a fit diverged, or a prediction is not finite.
    """
    folder, fold = own.folder, own.fold
    chosen = own.recipe.trained if members is None else members
    store, stacked_s = FitStore(folder.fits_dir), folder.read(STACKS) if folder.has(STACKS) else {}
    reused: dict[str, Any] = {}
    for model, number in chosen:
        if is_trained(folder, fold.index, model, number):
            continue
        path, name = folder.model_path(fold.index, model, number), folder.model_name(model, number)
        stamp = own.stamp(model, number)
        fit, seconds = fit_id(stamp), None
        with store.locked(fit) as target:
            if not store.is_done(fit):
                began_s = time.perf_counter()
                _train_model(target, own, number, stamp, named_fit(on_epoch, name))
                store.finish(fit)
                seconds = round(time.perf_counter() - began_s + stacked_s.get(fit, 0.0), 3)
            store.link(fit, folder.path / path)
        if seconds is None:
            reused[name] = {"fit": fit, "is_reused": True}
        else:
            entry = {"fit": fit, "is_reused": False, "seconds": seconds}
            folder.update(fits_file(fold.index), {name: entry})
    if reused:
        folder.update(fits_file(fold.index), reused)
    logger.info(
        "fold trained", night=folder.path.name, fold=fold.index, models=len(chosen), reused=len(reused)
    )
    return {
        folder.model_name(model, number): folder.read(
            f"{folder.model_path(fold.index, model, number)}/metrics.json"
        )["test"]["ic"]["value"]
        for model, number in chosen
    }


def fit_normaliser(data: NightData, seen: torch.Tensor) -> Normaliser:
    """Fit a normaliser to some rows that teach, given by their numbers."""
    rows, block = torch.zeros(data.labels.mask.numel(), dtype=torch.bool), data.teaching.block
    rows[seen - data.first_lesson] = True
    return Normaliser.fit(block.values, block.mask, rows.reshape(data.labels.mask.shape))


def _train_model(
    target: Path, own: FoldFits, number: int, stamp: CheckpointStamp, on_epoch: OnEpoch | None
) -> None:
    """Fit one model and seed, and write its checkpoint, predictions and scores into a folder."""
    fold, data, rows, context, recipe = own.fold, own.data, own.rows, own.context, own.recipe
    fitted = fit_model(
        context,
        rows.seen,
        rows.valid,
        stamp,
        recipe.fit,
        folder=target,
        fold=fold.index,
        on_epoch=on_epoch,
    )
    validated, tested = predict_rows(fitted, rows.validated, data), predict_rows(fitted, rows.test, data)
    for index, found in ((rows.validated, validated), (rows.test, tested)):
        check_predictions(context, index, found.prediction, model=stamp.model, fold=fold.index)
    intervals = [
        scored_rows(fitted, rows.validated, validated, data),
        scored_rows(fitted, rows.test, tested, data),
    ]
    write_predictions(target / TEST_PREDICTIONS, tested, data.panel)
    write_predictions(target / VALID_PREDICTIONS, validated, data.panel)
    write_json(
        target / "metrics.json",
        {
            "model": stamp.model,
            "number": number,
            "tested_ns": [fold.test.start_ns, fold.test.stop_ns],
            "seed": stamp.seed,
            "parameters": fitted.parameters,
            "budget": fitted.budget,
            "history": [asdict(entry) for entry in fitted.history],
            "rows": {"train": len(rows.train), "valid": len(rows.valid), "test": len(rows.test)},
            "intervals": interval_coverage(*intervals),
            "valid": asdict(_score(predict_rows(fitted, rows.valid, data), recipe, stamp.seed)),
            "test": asdict(_score(tested, recipe, stamp.seed)),
        },
    )


def predict_rows(model: FittedModel, index: torch.Tensor, data: NightData) -> Predictions:
    """Return a model's predictions for rows, with their labels where those were observed."""
    n_steps = data.panel.n_steps
    label = torch.where(data.labels.mask, data.labels.label, math.nan).flatten()[index]
    return Predictions(
        instrument=(index // n_steps).numpy().astype(np.int32),
        step=(index % n_steps).numpy().astype(np.int32),
        prediction=model.predict(index).to(torch.float32).numpy(),
        label=label.to(torch.float32).numpy(),
        strangeness=model.strangeness(index).to(torch.float32).numpy(),
    )


def scored_rows(model: FittedModel, index: torch.Tensor, found: Predictions, data: NightData) -> ScoredRows:
    """Return how far the labels of rows lie outside of what a model predicted, with the times of the rows."""
    low = high = found.prediction
    if model.quantiles is not None:
        low, _, high = model.quantiles(index).numpy().T
    labels = data.labels
    return ScoredRows(
        score=interval_scores(found.label, low, high),
        half_width=(high - low).astype(np.float64) / 2,
        decided_ns=labels.ts_decided_ns[found.step],
        known_ns=labels.ts_span_end_ns[found.step],
    )


def _score(predictions: Predictions, recipe: Recipe, seed: int) -> Score:
    return score_folds([predictions], recipe, seed=seed)


def _row_numbers(mask: torch.Tensor, steps: np.ndarray) -> torch.Tensor:
    """Return the numbers of the rows of a mask, (S, T) bool, at some steps, (T,) bool; ascending."""
    chosen = np.flatnonzero(steps)
    if not len(chosen):
        return torch.zeros(0, dtype=torch.int64)
    first, stop = int(chosen[0]), int(chosen[-1]) + 1
    within = mask[:, first:stop] & torch.from_numpy(steps[first:stop])
    instrument, step = torch.nonzero(within, as_tuple=True)
    return instrument * mask.shape[1] + step + first
