"""Training of every model and seed on one fold, and their scores on the same rows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from storage.logs import get_logger
from training.data.folds import Fold, SplitRows, split_rows
from training.data.panel import Normaliser
from training.evaluation.metrics import Score
from training.models.device import derive_seed
from training.models.estimators import FittedModel, FoldContext, OnEpoch, fit_model
from training.night.artifacts import NightArtifacts, NightData, Predictions
from training.night.scoring import make_fold_context, score_folds
from training.recipe import Recipe

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FoldRows:
    """Row numbers of a fold, `s * T + t`, ascending; each (N,) int64.

    Rows that teach are those of the lessons where a night has any, numbered after all served rows.

    Args:
        train, valid: labelled rows on the recipe's stride.
        test: every row on which a live system would have decided, whether or not its label was observed later.
        seen: every labelled row of the train part, on the stride or off it; the normaliser is fitted to these.
    """

    train: torch.Tensor
    valid: torch.Tensor
    test: torch.Tensor
    seen: torch.Tensor


def fold_rows(data: NightData, parts: SplitRows, recipe: Recipe) -> FoldRows:
    """Return the rows of a fold's parts; a row needs at least one valid feature."""
    known, lessons = data.block.mask.any(dim=-1), data.teaching
    labelled, decidable = data.labels.mask & known, data.labels.decidable & known
    taught = lessons.labels.mask & lessons.block.mask.any(dim=-1)
    on_stride = torch.from_numpy(data.panel.ts_open_ns // data.panel.width_ns % recipe.stride == 0)
    train, valid, test = (torch.from_numpy(part) for part in (parts.train, parts.valid, parts.test))
    return FoldRows(
        train=_row_numbers(taught & (train & on_stride)) + data.first_lesson,
        valid=_row_numbers(labelled & (valid & on_stride)),
        test=_row_numbers(decidable & test),
        seen=_row_numbers(taught & train) + data.first_lesson,
    )


def train_models(
    folder: NightArtifacts, fold: Fold, device: torch.device, *, on_epoch: OnEpoch | None = None
) -> dict[str, Any]:
    """Train every model and seed that is not trained yet, and return the test IC of each."""
    data, recipe = folder.read_data(), folder.recipe
    parts = split_rows(fold, data.labels.ts_decided_ns, data.labels.ts_span_end_ns)
    rows = fold_rows(data, parts, recipe)
    context = make_fold_context(data, fit_normaliser(data, rows.seen), recipe, device)
    results: dict[str, Any] = {}
    for model, number in recipe.model_seeds:
        path = folder.model_path(fold.index, model, number)
        if not folder.has(f"{path}/metrics.json"):
            _train_model(folder, fold, model, number, data, recipe, rows, context, on_epoch)
        results[folder.model_name(model, number)] = folder.read(f"{path}/metrics.json")["test"]["ic"]["value"]
    logger.info("fold trained", night=folder.path.name, fold=fold.index, models=len(results))
    return results


def fit_normaliser(data: NightData, seen: torch.Tensor) -> Normaliser:
    """Fit a normaliser to some rows that teach, given by their numbers."""
    rows, block = torch.zeros(data.labels.mask.numel(), dtype=torch.bool), data.teaching.block
    rows[seen - data.first_lesson] = True
    return Normaliser.fit(block.values, block.mask, rows.reshape(data.labels.mask.shape))


def _train_model(
    folder: NightArtifacts,
    fold: Fold,
    model: str,
    number: int,
    data: NightData,
    recipe: Recipe,
    rows: FoldRows,
    context: FoldContext,
    on_epoch: OnEpoch | None,
) -> None:
    path = folder.model_path(fold.index, model, number)
    stamp = folder.stamp(
        model=model,
        fold=fold.index,
        seed=derive_seed(folder.facts["seed"], model, fold.index, number),
        feature_names=data.block.names,
        device=context.windows.device.type,
    )
    fitted = fit_model(
        context,
        rows.train,
        rows.valid,
        stamp,
        recipe.fit,
        folder=folder.path / path,
        on_epoch=on_epoch,
    )
    tested = predict_rows(fitted, rows.test, data)
    folder.write_predictions(path, tested)
    folder.write(
        f"{path}/metrics.json",
        {
            "model": model,
            "number": number,
            "fold": fold.index,
            "seed": stamp.seed,
            "role": "control" if model in recipe.controls else "challenger",
            "parameters": fitted.parameters,
            "budget": fitted.budget,
            "history": [asdict(entry) for entry in fitted.history],
            "rows": {"train": len(rows.train), "valid": len(rows.valid), "test": len(rows.test)},
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
    )


def _score(predictions: Predictions, recipe: Recipe, seed: int) -> Score:
    return score_folds([predictions], recipe, seed=seed)


def _row_numbers(mask: torch.Tensor) -> torch.Tensor:
    return torch.nonzero(mask.flatten()).squeeze(-1)
