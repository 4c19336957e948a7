"""Health of a fit: rows that can train a model, finite predictions, and agreement of a refit with its folds.

The training loop itself stops a run that diverges (training/models/trainer.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from storage.errors import FitError
from training.models.estimators import FoldContext

LEAST_AGREEMENT: Final = 0.5
"""Rank correlation that a refit's predictions must reach with those of its folds' models, on the folds' test rows,
unless the refit predicts the labels of these rows as well as the folds' models did."""
MOST_LOST_IC: Final = 0.1
"""Rank IC on the folds' test rows that a refit may lose against the folds' models."""
_LEAST_COMPARED: Final = 100


def check_training_rows(
    context: FoldContext, train: torch.Tensor, valid: torch.Tensor | None, *, labelled: int, fold: int
) -> None:
    """Check that the rows of a fold can train and choose a model, before anything is trained.

    Args:
        context: features and labels.
        train, valid: (N,) row numbers, each with a label and at least one valid feature.
        labelled: labelled rows of the train part, with valid features or without.
        fold: its index; -1 for the refit.

    Raises:
        FitError: a part is empty or fully masked, its labels or all of its features are constant, or a label or
            feature is not finite where its mask says that it was observed.
    """
    where = f"fold {fold}" if fold >= 0 else "the refit"
    if len(train) == 0 and labelled:
        raise FitError(
            f"{where} cannot train: every feature is masked on all {labelled} labelled train rows",
            hint="the data lacks the inputs of the feature set; see tickwalk features health, or use another set",
            fold=fold,
        )
    for part, index in (("train", train), ("valid", valid)):
        if index is None:
            continue
        if len(index) == 0:
            raise FitError(
                f"{where} cannot train: it has no labelled {part} rows",
                hint="record or import more bars, or change the folds of the recipe",
                fold=fold,
            )
        _check_labels(context, index, part=part, where=where, fold=fold)
    _check_features(context, train, where=where, fold=fold)


def _check_labels(context: FoldContext, index: torch.Tensor, *, part: str, where: str, fold: int) -> None:
    label = context.label[index]
    bad = ~torch.isfinite(label)
    if bad.any():
        row = int(index[bad][0])
        raise FitError(
            f"{where} cannot train: {int(bad.sum())} of {len(index)} {part} labels are not finite where the mask "
            f"says that they were observed; first bad row: {context.describe(row)}",
            hint="check the prices of its label span",
            fold=fold,
            **context.locate(row),
        )
    if bool((label == label[0]).all()):
        raise FitError(
            f"{where} cannot train: all {len(index)} {part} labels are {float(label[0]):g}",
            hint="a constant label has nothing to learn or to judge; check the prices, or lengthen the fold",
            fold=fold,
            **context.locate(int(index[0])),
        )


def _check_features(context: FoldContext, train: torch.Tensor, *, where: str, fold: int) -> None:
    # Chunks bound the memory: the rows of a long range are many times its bars' resident block.
    low = torch.full((context.windows.n_features,), torch.inf)
    high = -low
    for chunk in torch.split(train, 1 << 18):
        x, mask = context.windows.newest(chunk)
        bad = ~torch.isfinite(x)
        if bad.any():
            row = int(chunk[bad.any(dim=1)][0])
            raise FitError(
                f"{where} cannot train: a valid feature is not finite; first bad row: {context.describe(row)}",
                hint="the feature must return NaN where it is unknown, and nothing else that is not finite",
                fold=fold,
                **context.locate(row),
            )
        low = torch.minimum(low, torch.where(mask > 0, x, torch.inf).amin(dim=0))
        high = torch.maximum(high, torch.where(mask > 0, x, -torch.inf).amax(dim=0))
    if not bool((high > low).any()):
        raise FitError(
            f"{where} cannot train: every feature is constant on all {len(train)} train rows",
            hint="see tickwalk features health, or use another feature set",
            fold=fold,
            **context.locate(int(train[0])),
        )


def check_predictions(
    context: FoldContext, index: torch.Tensor, prediction: np.ndarray, *, model: str, fold: int
) -> None:
    """Check that predictions are finite.

    Args:
        context: names the rows.
        index: (N,) int64 row numbers.
        prediction: (N,) float32.
        model, fold: of the fit; -1 for the refit.

    Raises:
        FitError: a prediction is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(prediction))
    if len(bad):
        row = int(index[bad[0]])
        where = f"fold {fold}" if fold >= 0 else "the refit"
        raise FitError(
            f"{model} of {where} predicts {float(prediction[bad[0]])} on {len(bad)} of {len(index)} rows; "
            f"first bad row: {context.describe(row)}",
            hint="check that row's features",
            model=model,
            fold=fold,
            **context.locate(row),
        )


def check_agreement(
    context: FoldContext,
    rows: Sequence[torch.Tensor],
    refit: Sequence[np.ndarray],
    folds: Sequence[np.ndarray],
    *,
    model: str,
    learning_rate: float,
    epoch: float,
) -> float:
    """Check that a refit agrees with its folds' models on the folds' test rows, and return their rank correlation.

    Models of labels without a signal disagree by luck: on random walks the rank correlation was between -0.97 and 1.00
    by fold, and with a planted signal at least 0.99. But a refit was trained on these rows, so a sound one predicts
    their labels about as well as the folds' models, to which they were new. Both must fail for an error.

    Args:
        context: labels and names of the rows.
        rows: by fold, (N,) row numbers.
        refit, folds: by fold, (N,) float32 predictions for these rows.
        model, learning_rate, epoch: of the refit, for the error.

    Returns:
        The mean over folds; NaN if no fold has 100 labelled rows and a model with an opinion. A network that did best
        before its first step predicts a constant, and cannot be contradicted. A refit that predicts a constant has
        agreement 0.

    Raises:
        FitError: the mean is below `LEAST_AGREEMENT`, and the mean rank IC of the refit is more than `MOST_LOST_IC`
            below that of the folds' models.
    """
    compared = []
    for number, (index, own, other) in enumerate(zip(rows, refit, folds, strict=True)):
        known = context.mask[index].numpy()
        if known.sum() >= _LEAST_COMPARED and np.ptp(other[known]) > 0:
            label = context.label[index].numpy()[known]
            pairs = ((own[known], other[known]), (own[known], label), (other[known], label))
            compared.append((number, *(_rank_correlation(*pair) for pair in pairs)))
    if not compared:
        return float("nan")
    mean, refit_ic, fold_ic = (float(value) for value in np.mean(compared, axis=0)[1:])
    if mean < LEAST_AGREEMENT and refit_ic < fold_ic - MOST_LOST_IC:
        found, agreement, *_ = min(compared, key=lambda entry: entry[1])
        worst = int(found)
        apart = np.abs(_rank(refit[worst]) - _rank(folds[worst]))
        row = int(rows[worst][int(apart.argmax())])
        raise FitError(
            f"the refit of {model} (epoch {epoch:g}, learning rate {learning_rate:g}) disagrees with its folds: the "
            f"rank correlation of their predictions is {mean:.2f}, at least {LEAST_AGREEMENT} is required, and its "
            f"rank IC on their test rows is {refit_ic:.2f} instead of {fold_ic:.2f}; on fold {worst} they correlate at "
            f"{agreement:.2f}; first bad row: {context.describe(row)}",
            hint="the weights are not stable: lower fit.learning_rate, or raise fit.patience in the recipe",
            model=model,
            fold=worst,
            epoch=epoch,
            learning_rate=learning_rate,
            agreement=mean,
            **context.locate(row),
        )
    return mean


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return the rank correlation; 0 where either is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(_rank(x), _rank(y))[0, 1])


def _rank(values: np.ndarray) -> np.ndarray:
    """Return ranks from 0, tied ones averaged."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts + 1) / 2)[place]
    return ranks
