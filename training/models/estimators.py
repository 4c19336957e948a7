"""How is any model of a recipe fitted, saved, and asked, as if they were all alike?

A member is one model with one seed on one fold, or its refit on all rows. Networks see windows, baselines the
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
    predict_network,
    fit_network,
)

logger = get_logger(__name__)
OnEpoch = Callable[[str, int, EpochLog], None]


@dataclass(frozen=True, slots=True)
class FoldContext:
    """What members of one fold share.

    Args:
        windows: the features, standardised.
        normaliser: by which they are.
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
        """Return rows with their labels."""
        return TrainingRows(index, self.label[index], self.mask[index])

    def table(self, index: torch.Tensor) -> BarRows:
        """Return rows as baselines see them."""
        x, mask = self.windows.newest(index)
        return BarRows(x, mask, self.past[index], self.label[index])


@dataclass(frozen=True, slots=True)
class FittedModel:
    """A fitted member.

    Args:
        predict: from (N,) row numbers to (N,) float32 on the CPU.
        budget: epochs or rounds that valid rows chose; 0 where there is nothing to choose.
        history: one entry an epoch; empty for baselines.
        parameters: numbers that were fitted.
    """

    predict: Callable[[torch.Tensor], torch.Tensor]
    budget: int
    history: tuple[EpochLog, ...]
    parameters: int


def fit_model(
    shared: FoldContext,
    train: torch.Tensor,
    valid: torch.Tensor | None,
    stamp: CheckpointStamp,
    rule: FitRule,
    *,
    folder: Path,
    budget: int | None = None,
    on_epoch: OnEpoch | None = None,
) -> FittedModel:
    """Fit one member, or go on where an earlier attempt stopped, and leave its checkpoint in `folder`.

    Args:
        shared: features and labels.
        train, valid: (N,) row numbers; without valid rows it is a refit, and `budget` says how long.
        stamp: names the model, fold and seed.
        rule: how networks are trained.
        folder: of the checkpoint.
        budget: epochs or rounds of a refit.
        on_epoch: told of every epoch, with model and fold.

    Raises:
        CheckpointError: the folder holds a checkpoint of something else.
    """
    earlier = load_checkpoint(folder, expect=stamp.expectations()) if (folder / MANIFEST).exists() else None
    if stamp.model in BASELINES:
        return _fit_baseline(shared, train, valid, stamp, earlier, folder, budget)
    return _fit_network(shared, train, valid, stamp, rule, earlier, folder, budget, on_epoch)


def load_model(shared: FoldContext, saved: Checkpoint) -> FittedModel:
    """Return a saved member.

    Args:
        shared: with windows under the member's own normaliser.
        saved: its checkpoint.

    Raises:
        CheckpointError: its training did not finish, or this code builds another network.
    """
    name, cursor = str(saved.stamp["model"]), saved.cursor
    if not cursor["is_done"]:
        raise CheckpointError(
            f"the training of {name} stopped after epoch {cursor['epoch']}", hint="run it again"
        )
    if name in BASELINES:
        return _as_member(shared, load_baseline(name, saved.weights))
    network = make_network(
        name, window_bars=shared.windows.window_bars, n_features=shared.windows.n_features, seed=0
    )
    try:
        network.load_state_dict(dict(saved.weights))
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights of {name} do not fit the network that this code builds"
        ) from error
    network.to(shared.windows.device)
    return _network_member(shared, network, TrainingProgress.resume(cursor, best=saved.weights, state={}))


def _fit_baseline(
    shared: FoldContext,
    train: torch.Tensor,
    valid: torch.Tensor | None,
    stamp: CheckpointStamp,
    earlier: Checkpoint | None,
    folder: Path,
    budget: int | None,
) -> FittedModel:
    if earlier is not None:
        return load_model(shared, earlier)
    fitted = fit_baseline(
        stamp.model,
        shared.table(train),
        shared.table(valid) if valid is not None else None,
        seed=stamp.seed,
        threads=torch.get_num_threads(),
        budget=budget,
    )
    cursor = {"epoch": 0, "best_epoch": 0, "is_done": True, "history": [], "budget": fitted.budget}
    _save(folder, stamp, shared, fitted.weights(), cursor)
    return _as_member(shared, fitted)


def _fit_network(
    shared: FoldContext,
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
        window_bars=shared.windows.window_bars,
        n_features=shared.windows.n_features,
        seed=derive_seed(stamp.seed, "weights"),
    )
    if budget is not None:
        rule = replace(rule, epochs=max(budget, 1))

    def keep(progress: TrainingProgress) -> None:
        _save(folder, stamp, shared, progress.best, progress.cursor(), progress.state)
        if on_epoch is not None:
            on_epoch(stamp.model, stamp.fold, progress.history[-1])

    resume = None
    if earlier is not None:
        resume = TrainingProgress.resume(earlier.cursor, best=earlier.weights, state=earlier.state)
        logger.info("training resumed", model=stamp.model, fold=stamp.fold, epoch=resume.epoch)
    done = fit_network(
        network,
        shared.windows,
        shared.rows(train),
        shared.rows(valid) if valid is not None else None,
        rule,
        seed=derive_seed(stamp.seed, "order"),
        resume=resume,
        keep=keep,
    )
    return _network_member(shared, network, done)


def _save(
    folder: Path,
    stamp: CheckpointStamp,
    shared: FoldContext,
    weights: Mapping[str, torch.Tensor],
    cursor: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
) -> None:
    save_checkpoint(
        folder, stamp, weights=weights, normaliser=shared.normaliser.to_plain(), cursor=cursor, state=state
    )


def _as_member(shared: FoldContext, fitted: Baseline) -> FittedModel:
    parameters = sum(value.numel() for value in fitted.weights().values())
    return FittedModel(lambda index: fitted.predict(shared.table(index)), fitted.budget, (), parameters)


def _network_member(shared: FoldContext, network: torch.nn.Module, done: TrainingProgress) -> FittedModel:
    return FittedModel(
        predict=lambda index: predict_network(network, shared.windows, index).cpu(),
        budget=done.best_epoch,
        history=tuple(done.history),
        parameters=sum(value.numel() for value in network.parameters()),
    )
