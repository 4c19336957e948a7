"""Refit: the weights that are deployed, of one model trained on every labelled row for a given budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from training.data.folds import SplitRows
from training.models.checkpoint import CheckpointStamp
from training.models.estimators import FittedModel, FoldContext, fit_model
from training.models.fit_health import check_training_rows
from training.night.artifacts import NightData
from training.night.fold_training import fit_normaliser, fold_rows
from training.night.scoring import make_fold_context
from training.recipe import Recipe

NO_FOLD: Final = -1
"""Fold in the stamp and the errors of a refit."""


@dataclass(frozen=True, slots=True)
class Refit:
    """A model that was trained on every labelled row.

    Args:
        fitted: the model.
        context: windows and labels of all rows.
        seen: (N,) int64, numbers of the rows that taught, `s * T + t`.
    """

    fitted: FittedModel
    context: FoldContext
    seen: torch.Tensor


def refit(
    data: NightData,
    recipe: Recipe,
    stamp: CheckpointStamp,
    device: torch.device,
    *,
    budget: int,
    folder: Path,
) -> Refit:
    """Train a model on every labelled row; the result depends on nothing but the arguments.

    Args:
        data: of the night.
        recipe: of the night.
        stamp: names model and seed.
        device: that computes it.
        budget: validation points of a network, rounds of trees, or shrinkage.
        folder: takes the checkpoint; one of the same stamp is continued.

    Raises:
        FitError: the rows cannot train a model, or the fit diverged.
    """
    nothing = np.zeros(data.panel.n_steps, dtype=bool)
    rows = fold_rows(data, SplitRows(~nothing, nothing, nothing, nothing, nothing), recipe)
    context = make_fold_context(data, fit_normaliser(data, rows.seen), recipe, device)
    check_training_rows(context, rows.seen, None, labelled=rows.labelled, fold=NO_FOLD)
    fitted = fit_model(context, rows.seen, None, stamp, recipe.fit, folder=folder, budget=budget)
    return Refit(fitted, context, rows.seen)
