"""Training of a night's stacked fits (training/models/stacked.py) into the store of fits.

The fits of one network on several folds train in one program. Each leaves a finished checkpoint in its folder of the
store, from which `train_models` predicts and scores it like any other. Fits that are there already are left alone, and
which folds are trained together changes no bit, so a fold may also be trained on its own.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack

from storage.logs import get_logger
from training.models.estimators import OnEpoch, PlannedFit, fit_stack, named_fit
from training.night.artifacts import STACKS, NightArtifacts
from training.night.fit_store import FitStore, fit_id
from training.night.fold_training import FoldFits

logger = get_logger(__name__)


def train_stacks(
    folder: NightArtifacts,
    folds: Sequence[FoldFits],
    *,
    models: Collection[str] | None = None,
    on_epoch: OnEpoch | None = None,
) -> None:
    """Train the fits of networks that a night stacks on some of its folds.

    Args:
        folder: the night.
        folds: the folds.
        models: those to train, where the night stacks them (default: all).
        on_epoch: called at every validation point with model, fold and log.

    Raises:
        FitError: the rows of a fold cannot train a model, or a fit diverged.
    """
    lanes: dict[str, int] = folder.facts["stacking"]
    for model in lanes:
        if models is not None and model not in models:
            continue
        numbers = [number for name, number in folder.recipe.trained if name == model]
        _train_stack(folder, folds, model, numbers, lanes[model], on_epoch)


def _train_stack(
    folder: NightArtifacts,
    folds: Sequence[FoldFits],
    model: str,
    numbers: Sequence[int],
    lanes: int,
    on_epoch: OnEpoch | None,
) -> None:
    """Train one network on some folds, of those whose fits are not there yet."""
    store = FitStore(folder.fits_dir)
    wanted = {
        fit_id(stamp): (fits, stamp, number)
        for fits in folds
        for number in numbers
        for stamp in [fits.stamp(model, number)]
    }
    with ExitStack() as locks:
        plans = []
        for fit in sorted(
            wanted
        ):  # in one order everywhere, so that two processes do not wait for each other
            fits, stamp, number = wanted[fit]
            target = locks.enter_context(store.locked(fit))
            if not store.is_done(fit):
                rows = fits.rows
                told = named_fit(on_epoch, folder.model_name(model, number))
                plans.append(
                    PlannedFit(fits.context, rows.seen, rows.valid, stamp, target, fits.fold.index, told)
                )
        if not plans:
            return
        began_s = time.perf_counter()
        fit_stack(plans, folder.recipe.fit, lanes=lanes)
        seconds = (time.perf_counter() - began_s) / len(plans)
    folder.update(STACKS, {plan.folder.name: round(seconds, 3) for plan in plans})
    logger.info("stack trained", night=folder.path.name, model=model, fits=len(plans), lanes=lanes)
