"""The training loop of one network: reproducible and resumable to the bit.

A run is a function of its rows, its rule and its seed. It passes through validation points: one before the first step,
and some in each epoch. At each, `save` is called with the state from which another process can continue with identical
results, and a run that is not finite or has diverged stops with an error. Early stopping returns the weights of the
best point, not the last. Between two points nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from storage.errors import FitError
from training.data.panel import PanelWindows
from training.models.device import flushed_denormals
from training.models.fit_rule import FitRule
from training.models.losses import (
    LossRows,
    group_by_time,
    n_outputs,
    point_prediction,
    prediction_loss,
)
from training.models.row_order import order_rows
from training.models.train_step import TrainStep, make_optimiser
from training.models.whole_windows import predict_whole

_PREDICT_BATCH: Final = 4096
DIVERGED: Final = 10.0
"""A run has diverged when its loss is this many times that of predicting zero on the same rows."""


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Rows with their labels.

    Args:
        index: (N,) int64 row numbers.
        label: (N,) float32, 0 where masked.
        mask: (N,) bool, the label was observed.
        phase: (N,) int64, on the CPU: the row trains in epochs that leave this remainder modulo `stride`
            (training/data/stride.py); without phases every row trains in every epoch.
        stride: of the phases.
        weight: (N,) float32, weight of the row in losses (training/data/weights.py); `None`: all equal.
    """

    index: torch.Tensor
    label: torch.Tensor
    mask: torch.Tensor
    phase: torch.Tensor | None = None
    stride: int = 1
    weight: torch.Tensor | None = None

    def to(self, device: torch.device) -> TrainingRows:
        """Return the rows on a device."""
        weight = None if self.weight is None else self.weight.to(device)
        return replace(
            self,
            index=self.index.to(device),
            label=self.label.to(device),
            mask=self.mask.to(device),
            weight=weight,
        )

    def of_epoch(self, epoch: int) -> torch.Tensor:
        """Return the positions, (M,) int64 on the CPU, of the rows that train in an epoch."""
        if self.phase is None:
            return torch.arange(len(self.index))
        return torch.nonzero(self.phase == epoch % self.stride).squeeze(-1)


@dataclass(frozen=True, slots=True)
class EpochLog:
    """Losses at one validation point.

    Args:
        epoch: epochs done by then, in parts of an epoch; 0 before the first step.
        train_loss: over the rows since the previous point; NaN where there are none.
        valid_loss: NaN without valid rows.
        best_epoch: the point with the best validation loss so far.
        valid_ic: correlation of predictions and labels on valid rows; NaN where either is constant.
        learning_rate: of the last step before the point; 0 before the first step.
        rows: that were trained on since the previous point.
    """

    epoch: float
    train_loss: float
    valid_loss: float
    best_epoch: float
    valid_ic: float = math.nan
    learning_rate: float = 0.0
    rows: int = 0


class TrainedPart(NamedTuple):
    """What was trained between two points: the mean loss, the number of rows, and the last learning rate."""

    loss: float
    rows: int
    learning_rate: float


NOT_TRAINED: Final = TrainedPart(math.nan, 0, 0.0)


class Validation(NamedTuple):
    """Loss and correlation (information coefficient) on valid rows."""

    loss: float
    ic: float


@dataclass(slots=True)
class TrainingProgress:
    """State of a run at a validation point.

    Args:
        point: number of the point; 0 comes before the first step, and an epoch has `FitRule.checks` points.
        best_point: the point whose weights are `best`.
        history: one entry per point.
        best: the best weights so far.
        state: current weights, optimiser and random states, from which another process can continue.
        is_done: no epoch is left, or patience ran out.
    """

    point: int
    best_point: int
    history: list[EpochLog]
    best: dict[str, torch.Tensor]
    state: dict[str, Any] = field(default_factory=dict)
    is_done: bool = False

    def cursor(self) -> dict[str, Any]:
        """Return the part without tensors as plain values, for a manifest."""
        return {
            "point": self.point,
            "best_point": self.best_point,
            "is_done": self.is_done,
            "history": [asdict(entry) for entry in self.history],
        }

    @classmethod
    def resume(
        cls, cursor: Mapping[str, Any], *, best: Mapping[str, torch.Tensor], state: Mapping[str, Any]
    ) -> TrainingProgress:
        """Return the progress from a saved cursor, weights and state."""
        history = [
            EpochLog(
                float(entry["epoch"]),
                _float(entry["train_loss"]),
                _float(entry["valid_loss"]),
                float(entry["best_epoch"]),
                # Checkpoints of older releases lack these.
                _float(entry.get("valid_ic")),
                float(entry.get("learning_rate", 0.0)),
                int(entry.get("rows", 0)),
            )
            for entry in cursor["history"]
        ]
        return cls(
            cursor["point"], cursor["best_point"], history, dict(best), dict(state), bool(cursor["is_done"])
        )


def fit_network(
    network: nn.Module,
    windows: PanelWindows,
    train: TrainingRows,
    valid: TrainingRows | None,
    rule: FitRule,
    *,
    seed: int,
    points: int | None = None,
    resume: TrainingProgress | None = None,
    save: Callable[[TrainingProgress], None] | None = None,
) -> TrainingProgress:
    """Train a network in place, and load its best weights.

    Args:
        network: with initial weights; it is moved to the windows' device.
        windows: the features.
        train: rows to train on.
        valid: rows that choose the best point; without them all epochs run, and the last point is the best.
        rule: training parameters.
        seed: of the order of rows and of dropout.
        points: validation points to train for, in place of the rule's epochs.
        resume: progress of an interrupted run with the same arguments.
        save: called at every validation point with the progress.

    Raises:
        FitError: the run diverged, or a row or a loss is not finite; the facts have `epoch`, `learning_rate` and the
            first bad `row`.
    """
    device = windows.device
    network.to(device)
    train, valid = train.to(device), valid.to(device) if valid is not None else None
    optimiser = make_optimiser(network, rule, device)
    step = TrainStep(network, optimiser, rule, device)
    last = rule.epochs * rule.checks if points is None else points
    with flushed_denormals(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if resume is None:
            progress = TrainingProgress(-1, 0, [], weights_of(network))
        else:
            progress = resume
            _restore(progress.state, network, optimiser, device)
        epoch, batches = -1, []
        while not progress.is_done:
            trained = NOT_TRAINED
            if progress.point >= 0:
                if progress.point // rule.checks != epoch:
                    epoch = progress.point // rule.checks
                    batches = epoch_batches(train, rule, epoch=epoch, seed=seed, n_steps=windows.n_steps)
                trained = _train_part(network, windows, train, rule, step, batches, progress.point)
            validated = validate(network, windows, valid, rule, progress) if valid is not None else None
            advance(progress, network, rule, trained, validated, last=last)
            progress.state = _state(network, optimiser, device)
            if save is not None:
                save(progress)
    network.load_state_dict(progress.best)
    network.eval()
    return progress


def epoch_batches(
    rows: TrainingRows, rule: FitRule, *, epoch: int, seed: int, n_steps: int
) -> list[torch.Tensor]:
    """Return the batches of an epoch as positions in `rows`; they depend on the seed and the epoch alone."""
    ordered = order_rows(
        rows.of_epoch(epoch), rows.index, order=rule.order, n_steps=n_steps, epoch=epoch, seed=seed
    )
    return list(torch.split(ordered, rule.batch)) if len(ordered) else []


def part_of_epoch(batches: list[torch.Tensor], rule: FitRule, point: int) -> list[torch.Tensor]:
    """Return those of an epoch's batches that are trained between a point and the next."""
    part = point % rule.checks
    return batches[len(batches) * part // rule.checks : len(batches) * (part + 1) // rule.checks]


def part_rates(n_batches: int, rule: FitRule, point: int) -> list[float]:
    """Return the learning rates of the batches between a point and the next, of an epoch of `n_batches`."""
    epoch, part = divmod(point, rule.checks)
    places = range(n_batches * part // rule.checks, n_batches * (part + 1) // rule.checks)
    return [rule.rate_at(epoch + place / n_batches) for place in places]


def loss_rows(rows: TrainingRows, batch: torch.Tensor, rule: FitRule, *, n_steps: int) -> LossRows:
    """Return the labels of a batch, given by its positions in the rows, with all that the loss uses."""
    return LossRows(
        rows.label[batch],
        rows.mask[batch],
        None if rows.weight is None else rows.weight[batch],
        group_by_time(rows.index[batch] % n_steps) if rule.loss == "time_ic" else None,
    )


def _train_part(
    network: nn.Module,
    windows: PanelWindows,
    rows: TrainingRows,
    rule: FitRule,
    step: TrainStep,
    epoch_batches: list[torch.Tensor],
    point: int,
) -> TrainedPart:
    """Train from one point to the next."""
    batches = part_of_epoch(epoch_batches, rule, point)
    rates = part_rates(len(epoch_batches), rule, point)
    if not batches:
        return NOT_TRAINED
    network.train()
    losses, buffer = [], windows.buffer(rule.batch)
    for batch, rate in zip(batches, rates, strict=True):
        both_BTG = windows.gather(rows.index[batch], into=buffer)
        losses.append(step(both_BTG, loss_rows(rows, batch, rule, n_steps=windows.n_steps), rate=rate))
    loss = healthy_loss(
        network, windows, rows, rule, batches, torch.stack(losses), epoch=(point + 1) / rule.checks
    )
    return TrainedPart(loss, sum(len(batch) for batch in batches), rates[-1])


def healthy_loss(
    network: nn.Module,
    windows: PanelWindows,
    rows: TrainingRows,
    rule: FitRule,
    batches: list[torch.Tensor],
    losses: torch.Tensor,
    *,
    epoch: float,
) -> float:
    """Return the mean loss of some batches.

    Raises:
        FitError: a loss or weight is not finite, or the loss is far above that of predicting zero.
    """
    sizes = torch.tensor([len(batch) for batch in batches], device=losses.device)
    loss = float((losses * sizes).sum() / sizes.sum())
    zero = zero_loss(rows, torch.cat(batches), rule, n_steps=windows.n_steps)
    if bool((broken := ~torch.isfinite(losses)).any()):
        first = int(torch.nonzero(broken)[0])
        row = _bad_row(network, windows, rows, batches[first])
        raise _failure(f"the loss of a batch is {float(losses[first])}", rule, epoch=epoch, row=row)
    if any(not torch.isfinite(value).all() for value in network.state_dict().values()):
        raise _failure("a weight is not finite", rule, epoch=epoch, row=int(rows.index[batches[-1][0]]))
    if zero > 0 and loss > DIVERGED * zero:
        worst = batches[int(losses.argmax())]
        message = f"the loss is {loss:.3g}, and predicting zero has {zero:.3g} on the same rows"
        raise _failure(message, rule, epoch=epoch, row=int(rows.index[worst[0]]))
    return loss


def zero_loss(rows: TrainingRows, chosen: torch.Tensor, rule: FitRule, *, n_steps: int) -> float:
    """Return the loss of predicting zero on some rows, given by their positions."""
    labels, count = loss_rows(rows, chosen, rule, n_steps=n_steps), n_outputs(rule.loss)
    shape = (len(chosen), count) if count > 1 else (len(chosen),)
    output = torch.zeros(shape, device=labels.label.device)
    return float(prediction_loss(rule.loss, output, labels, delta=rule.huber_delta))


def _bad_row(network: nn.Module, windows: PanelWindows, rows: TrainingRows, batch: torch.Tensor) -> int:
    """Return the first row of a batch whose window or label is not finite, or else whose prediction is not."""
    index = rows.index[batch]
    x_BTF, _ = windows.batch(index)
    bad = ~torch.isfinite(x_BTF).flatten(1).all(dim=1) | (
        rows.mask[batch] & ~torch.isfinite(rows.label[batch])
    )
    if not bool(bad.any()):
        # The rows are sound, and the weights have overflowed.
        bad = ~torch.isfinite(predict_network(network, windows, index))
    return _first(index, bad)


def _failure(message: str, rule: FitRule, *, epoch: float, row: int) -> FitError:
    return FitError(message, epoch=epoch, learning_rate=rule.learning_rate, row=row)


def validate(
    network: nn.Module, windows: PanelWindows, rows: TrainingRows, rule: FitRule, progress: TrainingProgress
) -> Validation:
    """Return the loss and the correlation on valid rows.

    Raises:
        FitError: the loss is not finite.
    """
    output = network_outputs(network, windows, rows.index)
    loss = output_loss(output, rows, rule, n_steps=windows.n_steps)
    prediction = point_prediction(output)
    if not math.isfinite(loss):
        bad = rows.mask & ~(torch.isfinite(prediction) & torch.isfinite(rows.label))
        row, epoch = _first(rows.index, bad), (progress.point + 1) / rule.checks
        raise _failure(f"the loss on valid rows is {loss}", rule, epoch=epoch, row=row)
    return Validation(loss, information_coefficient(prediction[rows.mask], rows.label[rows.mask]))


def output_loss(output: torch.Tensor, rows: TrainingRows, rule: FitRule, *, n_steps: int) -> float:
    """Return the loss of a network's outputs for rows."""
    labels = loss_rows(rows, torch.arange(len(rows.index), device=output.device), rule, n_steps=n_steps)
    return float(prediction_loss(rule.loss, output, labels, delta=rule.huber_delta))


def information_coefficient(prediction: torch.Tensor, label: torch.Tensor) -> float:
    """Return the correlation of predictions and labels, each (N,); NaN where either is constant."""
    x, y = (part.to(torch.float64) - part.to(torch.float64).mean() for part in (prediction, label))
    spread = float((x**2).sum() * (y**2).sum())
    return float((x * y).sum()) / math.sqrt(spread) if len(x) and spread > 0 else math.nan


def _first(index: torch.Tensor, bad: torch.Tensor) -> int:
    return int(index[bad][0]) if bool(bad.any()) else int(index[0])


def mean_loss(network: nn.Module, windows: PanelWindows, rows: TrainingRows, rule: FitRule) -> float:
    """Return the loss over rows in evaluation mode."""
    rows = rows.to(windows.device)
    return output_loss(network_outputs(network, windows, rows.index), rows, rule, n_steps=windows.n_steps)


def predict_network(network: nn.Module, windows: PanelWindows, index: torch.Tensor) -> torch.Tensor:
    """Return a network's predictions for rows, (N,) float32 on the windows' device."""
    return point_prediction(network_outputs(network, windows, index))


@torch.no_grad()
def network_outputs(network: nn.Module, windows: PanelWindows, index: torch.Tensor) -> torch.Tensor:
    """Return what a network computes for rows in evaluation mode: (N,) predictions, or (N, 3) quantiles."""
    network.eval()
    parts = [
        predict_whole(network, windows.gather(chunk))
        for chunk in torch.split(index.to(windows.device), _PREDICT_BATCH)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, device=windows.device)


def advance(
    progress: TrainingProgress,
    network: nn.Module,
    rule: FitRule,
    trained: TrainedPart,
    validated: Validation | None,
    *,
    last: int,
) -> None:
    """Add a validation point to the progress, keep the best weights, and decide whether the run is done."""
    progress.point += 1
    losses = [entry.valid_loss for entry in progress.history]
    # Without valid rows the last point is the best.
    if validated is None or validated.loss < min(losses, default=math.inf):
        progress.best_point = progress.point
        progress.best = weights_of(network)
    logged = validated or Validation(math.nan, math.nan)
    progress.history.append(
        EpochLog(
            progress.point / rule.checks,
            trained.loss,
            logged.loss,
            progress.best_point / rule.checks,
            valid_ic=logged.ic,
            learning_rate=trained.learning_rate,
            rows=trained.rows,
        )
    )
    stale = progress.point - progress.best_point
    progress.is_done = progress.point >= last or stale >= rule.patience * rule.checks


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def _state(network: nn.Module, optimiser: torch.optim.Optimizer, device: torch.device) -> dict[str, Any]:
    return {
        "weights": weights_of(network),
        "optimiser": optimiser.state_dict(),
        "rng": torch.get_rng_state(),
        "device_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.empty(0),
    }


def _restore(
    state: Mapping[str, Any],
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    device: torch.device,
) -> None:
    network.load_state_dict(state["weights"])
    optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["rng"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["device_rng"], device)


def _float(value: float | None) -> float:
    # JSON has no NaN; the manifest has null instead.
    return math.nan if value is None else value
