"""Fitting, saving and loading of any model of a recipe through one interface.

A fit is one model with one seed, on one fold or as the refit on all rows. Networks use windows and baselines use the
newest bar; both get the same rows, the same normaliser and the same kind of checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from storage.clock import iso
from storage.errors import CheckpointError, FitError
from storage.logs import get_logger
from training.data.panel import Normaliser, PanelWindows
from training.data.weights import uniqueness_weights
from training.models.baseline import BarRows, Baseline
from training.models.checkpoint import MANIFEST, Checkpoint, CheckpointStamp, load_checkpoint, save_checkpoint
from training.models.controls import BASELINES, fit_baseline, load_baseline
from training.models.device import derive_seed
from training.models.fit_rule import FitRule
from training.models.losses import n_outputs, point_prediction, sorted_quantiles
from training.models.networks import make_network
from training.models.stacked import StackedFit, fit_stacked
from training.models.trainer import EpochLog, TrainingProgress, TrainingRows, fit_network, network_outputs

logger = get_logger(__name__)
_STRANGENESS_ROWS: Final = 1 << 16
OnEpoch = Callable[[str, int, EpochLog], None]
"""Called at every validation point of a network with the name of the fit, the fold and the log."""


def named_fit(on_epoch: OnEpoch | None, name: str) -> OnEpoch | None:
    """Return a callback that is called with the name of a model and seed in place of that of the model."""
    if on_epoch is None:
        return None
    return lambda _, fold, log: on_epoch(name, fold, log)


@dataclass(frozen=True, slots=True)
class FoldContext:
    """Features and labels that all fits of one fold share.

    Args:
        windows: the standardised features.
        normaliser: used to standardise them.
        past: (S * T,) float64, the trailing return over one horizon in units of the label; NaN where unknown.
        label: (S * T,) float32.
        mask: (S * T,) bool, the label was observed.
        instruments: ids of the S instruments.
        ts_open_ns: (T,) int64, open of each bar.
        phase: (T,) int64, phase of each step's stride (training/data/stride.py).
        stride: of the phases.
        unique_bars: horizon of the labels whose uniqueness weighs the rows (training/data/weights.py); 0: no weights.
    """

    windows: PanelWindows
    normaliser: Normaliser
    past: torch.Tensor
    label: torch.Tensor
    mask: torch.Tensor
    instruments: tuple[str, ...]
    ts_open_ns: np.ndarray
    phase: torch.Tensor
    stride: int
    unique_bars: int = 0

    def rows(self, index: torch.Tensor) -> TrainingRows:
        """Return rows with their labels, for a network."""
        phase = self.phase[index % self.windows.n_steps]
        weight = self.weights(index)
        return TrainingRows(index, self.label[index], self.mask[index], phase, self.stride, weight)

    def weights(self, index: torch.Tensor) -> torch.Tensor | None:
        """Return the weights of rows that are used together, (N,) float32; `None` where all are equal."""
        if self.unique_bars == 0:
            return None
        used = torch.zeros_like(self.mask)
        used[index] = self.mask[index]
        return uniqueness_weights(used.reshape(-1, self.windows.n_steps), self.unique_bars).flatten()[index]

    def first_phase(self, index: torch.Tensor) -> torch.Tensor:
        """Return those of some rows on which models without epochs are fitted."""
        return index[self.phase[index % self.windows.n_steps] == 0]

    def locate(self, row: int) -> dict[str, Any]:
        """Return instrument and open of a row, given by its number."""
        instrument, step = divmod(row, self.windows.n_steps)
        return {"instrument": self.instruments[instrument], "ts_open_ns": int(self.ts_open_ns[step])}

    def describe(self, row: int) -> str:
        """Return instrument and open of a row as text."""
        found = self.locate(row)
        return f"{found['instrument']} at {iso(found['ts_open_ns'])}"

    def strangeness(self, index: torch.Tensor) -> torch.Tensor:
        """Return the share of known features of each row's newest bar at the normaliser's clip, (N,) float32."""
        parts = []
        for chunk in torch.split(index, _STRANGENESS_ROWS):
            x, mask = self.windows.newest(chunk)
            far = (x.abs() >= self.normaliser.clip) & (mask > 0)
            parts.append(far.sum(dim=1) / mask.sum(dim=1).clamp(min=1))
        return torch.cat(parts) if parts else torch.zeros(0)

    def table(self, index: torch.Tensor) -> BarRows:
        """Return rows as a table, for a baseline."""
        x, mask = self.windows.newest(index)
        return BarRows(x, mask, self.past[index], self.label[index], self.weights(index))


@dataclass(frozen=True, slots=True)
class FittedModel:
    """A fitted model.

    Args:
        predict: maps (N,) row numbers to (N,) float32 predictions on the CPU.
        strangeness: maps (N,) row numbers to the share of features outside of the training rows, (N,) float32.
        budget: validation points (`FitRule.checks` per epoch) or rounds that valid rows chose; 0 where there is no
            such choice.
        history: one entry per validation point; empty for baselines.
        parameters: number of fitted values.
        quantiles: maps (N,) row numbers to (N, 3) float32 quantiles on the CPU (`losses.QUANTILES`), of a network that
            was trained to predict them.
    """

    predict: Callable[[torch.Tensor], torch.Tensor]
    strangeness: Callable[[torch.Tensor], torch.Tensor]
    budget: int
    history: tuple[EpochLog, ...]
    parameters: int
    quantiles: Callable[[torch.Tensor], torch.Tensor] | None = None


def fit_model(
    context: FoldContext,
    train: torch.Tensor,
    valid: torch.Tensor | None,
    stamp: CheckpointStamp,
    rule: FitRule,
    *,
    folder: Path,
    fold: int = -1,
    budget: int | None = None,
    on_epoch: OnEpoch | None = None,
) -> FittedModel:
    """Fit one model, or resume an interrupted fit, and save its checkpoint in `folder`.

    Args:
        context: features and labels.
        train: (N,) numbers of all labelled rows, whatever their phase: a network trains on one phase in each epoch,
            and a baseline is fitted to the first.
        valid: (N,) row numbers; without valid rows it is a refit of length `budget`.
        stamp: names the model and the seed.
        rule: training parameters of networks.
        folder: of the checkpoint.
        fold: index of the fold, as errors and `on_epoch` name it; -1 for the refit.
        budget: validation points or rounds of a refit.
        on_epoch: called at every validation point with model, fold and log.

    Raises:
        CheckpointError: the folder has a checkpoint of another origin.
        FitError: the fit diverged, or its weights are not finite.
    """
    earlier = _earlier(folder, stamp)
    if earlier is not None and earlier.cursor["is_done"]:
        return load_model(context, earlier)
    if stamp.model in BASELINES:
        return _fit_baseline(context, train, valid, stamp, folder, fold, budget)
    plan = PlannedFit(context, train, valid, stamp, folder, fold, on_epoch)
    return _fit_network(plan, rule, earlier, budget)


@dataclass(frozen=True, slots=True)
class PlannedFit:
    """One fit of a network that is to be made; the arguments of `fit_model`."""

    context: FoldContext
    train: torch.Tensor
    valid: torch.Tensor | None
    stamp: CheckpointStamp
    folder: Path
    fold: int
    on_epoch: OnEpoch | None = None

    def network(self, rule: FitRule) -> torch.nn.Module:
        """Return the network with its first weights."""
        windows = self.context.windows
        return make_network(
            self.stamp.model,
            window_bars=windows.window_bars,
            n_features=windows.n_features,
            seed=derive_seed(self.stamp.seed, "weights"),
            outputs=n_outputs(rule.loss),
        )

    @property
    def order_seed(self) -> int:
        """Seed of the order of rows and of dropout."""
        return derive_seed(self.stamp.seed, "order")

    def save(self, progress: TrainingProgress) -> None:
        """Save a checkpoint, and tell of the point."""
        _save(self.folder, self.stamp, self.context, progress.best, progress.cursor(), progress.state)
        if self.on_epoch is not None:
            self.on_epoch(self.stamp.model, self.fold, progress.history[-1])

    def resumed(self, earlier: Checkpoint, rule: FitRule) -> TrainingProgress:
        """Return the progress of an interrupted fit."""
        progress = TrainingProgress.resume(earlier.cursor, best=earlier.weights, state=earlier.state)
        logger.info(
            "training resumed", model=self.stamp.model, fold=self.fold, epoch=progress.point / rule.checks
        )
        return progress


def fit_stack(plans: Sequence[PlannedFit], rule: FitRule, *, lanes: int) -> None:
    """Fit networks of one kind as a stack, or resume them, and save a finished checkpoint in the folder of each.

    Raises:
        CheckpointError: a folder has a checkpoint of another origin.
        FitError: a fit diverged.
        SettingsError: the network cannot be stacked.
    """
    waiting: list[PlannedFit] = []
    fits: list[StackedFit] = []
    for plan in plans:
        earlier = _earlier(plan.folder, plan.stamp)
        if earlier is not None and earlier.cursor["is_done"]:
            continue
        waiting.append(plan)
        fits.append(
            StackedFit(
                plan.network(rule),
                plan.context.windows,
                plan.context.rows(plan.train),
                plan.context.rows(plan.valid) if plan.valid is not None else None,
                seed=plan.order_seed,
                resume=None if earlier is None else plan.resumed(earlier, rule),
                save=plan.save,
            )
        )
    try:
        fit_stacked(fits, rule, lanes=lanes)
    except FitError as error:
        plan = waiting[int(str(error.facts["place"]))]
        raise _located(error, plan.context, plan.stamp.model, plan.fold) from error


def _earlier(folder: Path, stamp: CheckpointStamp) -> Checkpoint | None:
    """Return the checkpoint of a folder, if there is one."""
    return load_checkpoint(folder, expect=stamp.expectations()) if (folder / MANIFEST).exists() else None


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
            f"the training of {name} stopped at epoch {cursor['history'][-1]['epoch']:g}", hint="run it again"
        )
    if name in BASELINES:
        return _wrap_baseline(context, load_baseline(name, saved.weights))
    loss = saved.stamp["recipe"].get("fit", {}).get("loss", "huber")
    network = make_network(
        name,
        window_bars=context.windows.window_bars,
        n_features=context.windows.n_features,
        seed=0,
        outputs=n_outputs(loss),
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
    folder: Path,
    fold: int,
    budget: int | None,
) -> FittedModel:
    fitted = fit_baseline(
        stamp.model,
        context.table(context.first_phase(train)),
        context.table(valid) if valid is not None else None,
        seed=stamp.seed,
        threads=torch.get_num_threads(),
        budget=budget,
    )
    if any(
        value.is_floating_point() and not torch.isfinite(value).all() for value in fitted.weights().values()
    ):
        raise FitError(
            f"{stamp.model} has weights that are not finite on {_fold_name(fold)}",
            hint="check the features and labels of its rows",
            model=stamp.model,
            fold=fold,
        )
    cursor = {"is_done": True, "history": [], "budget": fitted.budget}
    _save(folder, stamp, context, fitted.weights(), cursor)
    return _wrap_baseline(context, fitted)


def _fit_network(
    plan: PlannedFit, rule: FitRule, earlier: Checkpoint | None, budget: int | None
) -> FittedModel:
    context, network = plan.context, plan.network(rule)
    try:
        done = fit_network(
            network,
            context.windows,
            context.rows(plan.train),
            context.rows(plan.valid) if plan.valid is not None else None,
            rule,
            seed=plan.order_seed,
            points=None if budget is None else max(budget, 1),
            resume=None if earlier is None else plan.resumed(earlier, rule),
            save=plan.save,
        )
    except FitError as error:
        raise _located(error, context, plan.stamp.model, plan.fold) from error
    return _wrap_network(context, network, done)


def _located(error: FitError, context: FoldContext, model: str, fold: int) -> FitError:
    """Return an error of the training loop with the names of the model, the fold and the first bad row."""
    row, epoch, rate = (error.facts[name] for name in ("row", "epoch", "learning_rate"))
    return FitError(
        f"{model} failed on {_fold_name(fold)} in epoch {epoch:g} at learning rate {rate:g}: "
        f"{error.message}; first bad row: {context.describe(int(str(row)))}",
        hint="lower fit.learning_rate in the recipe, or check that row's features and label",
        model=model,
        fold=fold,
        epoch=epoch,
        learning_rate=rate,
        **context.locate(int(str(row))),
    )


def _fold_name(fold: int) -> str:
    return f"fold {fold}" if fold >= 0 else "the refit"


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
    return FittedModel(
        lambda index: fitted.predict(context.table(index)), context.strangeness, fitted.budget, (), parameters
    )


def _wrap_network(context: FoldContext, network: torch.nn.Module, done: TrainingProgress) -> FittedModel:
    def outputs(index: torch.Tensor) -> torch.Tensor:
        return network_outputs(network, context.windows, index).cpu()

    has_quantiles = outputs(torch.zeros(1, dtype=torch.int64)).dim() == 2
    return FittedModel(
        strangeness=context.strangeness,
        predict=lambda index: point_prediction(outputs(index)),
        budget=done.best_point,
        history=tuple(done.history),
        parameters=sum(value.numel() for value in network.parameters()),
        quantiles=(lambda index: sorted_quantiles(outputs(index))) if has_quantiles else None,
    )
