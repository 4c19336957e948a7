"""Fitting, saving and loading of any model of a recipe through one interface.

A fit is one model with one seed, on one fold or as the refit on all rows. Networks use windows and baselines use the
newest bar; both get the same rows, the same normaliser and the same kind of checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from storage.errors import CheckpointError
from storage.logs import get_logger
from training.data.panel import Normaliser, PanelWindows
from training.models.checkpoint import MANIFEST, Checkpoint, CheckpointStamp, load_checkpoint, save_checkpoint
from training.models.controls import BASELINES, BarRows, Baseline, fit_baseline, load_baseline
from training.models.device import derive_seed
from training.models.networks import make_network
from training.models.trainer import (
    EpochLog,
    FitRule,
    TrainingProgress,
    TrainingRows,
    fit_network,
    predict_network,
)

logger = get_logger(__name__)
OnEpoch = Callable[[str, int, EpochLog], None]


@dataclass(frozen=True, slots=True)
class FoldContext:
    """Features and labels that all fits of one fold share.

    Args:
        windows: the standardised features.
        normaliser: used to standardise them.
        past: (S * T,) float64, the trailing return over one horizon in units of the label; NaN where unknown.
        label: (S * T,) float32.
        mask: (S * T,) bool, the label was observed.
    """

    windows: PanelWindows
    normaliser: Normaliser
    past: torch.Tensor
    label: torch.Tensor
    mask: torch.Tensor

    def rows(self, index: torch.Tensor) -> TrainingRows:
        """Return rows with their labels, for a network."""
        return TrainingRows(index, self.label[index], self.mask[index])

    def table(self, index: torch.Tensor) -> BarRows:
        """Return rows as a table, for a baseline."""
        x, mask = self.windows.newest(index)
        return BarRows(x, mask, self.past[index], self.label[index])


@dataclass(frozen=True, slots=True)
class FittedModel:
    """A fitted model.

    Args:
        predict: maps (N,) row numbers to (N,) float32 predictions on the CPU.
        budget: epochs or rounds that valid rows chose; 0 where there is no such choice.
        history: one entry per epoch; empty for baselines.
        parameters: number of fitted values.
    """

    predict: Callable[[torch.Tensor], torch.Tensor]
    budget: int
    history: tuple[EpochLog, ...]
    parameters: int


def fit_model(
    context: FoldContext,
    train: torch.Tensor,
    valid: torch.Tensor | None,
    stamp: CheckpointStamp,
    rule: FitRule,
    *,
    folder: Path,
    budget: int | None = None,
    on_epoch: OnEpoch | None = None,
) -> FittedModel:
    """Fit one model, or resume an interrupted fit, and save its checkpoint in `folder`.

    Args:
        context: features and labels.
        train, valid: (N,) row numbers; without valid rows it is a refit of length `budget`.
        stamp: names the model, fold and seed.
        rule: training parameters of networks.
        folder: of the checkpoint.
        budget: epochs or rounds of a refit.
        on_epoch: called after every epoch with model, fold and log.

    Raises:
        CheckpointError: the folder has a checkpoint of another origin.
    """
    earlier = load_checkpoint(folder, expect=stamp.expectations()) if (folder / MANIFEST).exists() else None
    if stamp.model in BASELINES:
        return _fit_baseline(context, train, valid, stamp, earlier, folder, budget)
    return _fit_network(context, train, valid, stamp, rule, earlier, folder, budget, on_epoch)


def load_model(context: FoldContext, saved: Checkpoint) -> FittedModel:
    """Return a model from its checkpoint.

    Args:
        context: with windows under the model's own normaliser.
        saved: the checkpoint.

    Raises:
        CheckpointError: its training did not finish, or this code builds another network.
        SettingsError: no model has its name.
    """
    name, cursor = str(saved.stamp["model"]), saved.cursor
    if not cursor["is_done"]:
        raise CheckpointError(
            f"the training of {name} stopped after epoch {cursor['epoch']}", hint="run it again"
        )
    if name in BASELINES:
        return _wrap_baseline(context, load_baseline(name, saved.weights))
    network = make_network(
        name, window_bars=context.windows.window_bars, n_features=context.windows.n_features, seed=0
    )
    try:
        network.load_state_dict(dict(saved.weights))
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights of {name} do not fit the network that this code builds"
        ) from error
    network.to(context.windows.device)
    return _wrap_network(context, network, TrainingProgress.resume(cursor, best=saved.weights, state={}))


def _fit_baseline(
    context: FoldContext,
    train: torch.Tensor,
    valid: torch.Tensor | None,
    stamp: CheckpointStamp,
    earlier: Checkpoint | None,
    folder: Path,
    budget: int | None,
) -> FittedModel:
    if earlier is not None:
        return load_model(context, earlier)
    fitted = fit_baseline(
        stamp.model,
        context.table(train),
        context.table(valid) if valid is not None else None,
        seed=stamp.seed,
        threads=torch.get_num_threads(),
        budget=budget,
    )
    cursor = {"epoch": 0, "best_epoch": 0, "is_done": True, "history": [], "budget": fitted.budget}
    _save(folder, stamp, context, fitted.weights(), cursor)
    return _wrap_baseline(context, fitted)


def _fit_network(
    context: FoldContext,
    train: torch.Tensor,
    valid: torch.Tensor | None,
    stamp: CheckpointStamp,
    rule: FitRule,
    earlier: Checkpoint | None,
    folder: Path,
    budget: int | None,
    on_epoch: OnEpoch | None,
) -> FittedModel:
    network = make_network(
        stamp.model,
        window_bars=context.windows.window_bars,
        n_features=context.windows.n_features,
        seed=derive_seed(stamp.seed, "weights"),
    )
    if budget is not None:
        rule = replace(rule, epochs=max(budget, 1))

    def save(progress: TrainingProgress) -> None:
        _save(folder, stamp, context, progress.best, progress.cursor(), progress.state)
        if on_epoch is not None:
            on_epoch(stamp.model, stamp.fold, progress.history[-1])

    resume = None
    if earlier is not None:
        resume = TrainingProgress.resume(earlier.cursor, best=earlier.weights, state=earlier.state)
        logger.info("training resumed", model=stamp.model, fold=stamp.fold, epoch=resume.epoch)
    done = fit_network(
        network,
        context.windows,
        context.rows(train),
        context.rows(valid) if valid is not None else None,
        rule,
        seed=derive_seed(stamp.seed, "order"),
        resume=resume,
        save=save,
    )
    return _wrap_network(context, network, done)


def _save(
    folder: Path,
    stamp: CheckpointStamp,
    context: FoldContext,
    weights: Mapping[str, torch.Tensor],
    cursor: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
) -> None:
    save_checkpoint(
        folder, stamp, weights=weights, normaliser=context.normaliser.to_plain(), cursor=cursor, state=state
    )


def _wrap_baseline(context: FoldContext, fitted: Baseline) -> FittedModel:
    parameters = sum(value.numel() for value in fitted.weights().values())
    return FittedModel(lambda index: fitted.predict(context.table(index)), fitted.budget, (), parameters)


def _wrap_network(context: FoldContext, network: torch.nn.Module, done: TrainingProgress) -> FittedModel:
    return FittedModel(
        predict=lambda index: predict_network(network, context.windows, index).cpu(),
        budget=done.best_epoch,
        history=tuple(done.history),
        parameters=sum(value.numel() for value in network.parameters()),
    )
