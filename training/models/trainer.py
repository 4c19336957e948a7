"""The training loop of one network: reproducible and resumable to the bit.

A run is a function of its rows, its rule and its seed. After every epoch `save` is called with the state from which
another process can continue with identical results. Early stopping returns the best weights, not the last. An epoch
never waits for the device.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import torch
from torch import nn

from storage.errors import SettingsError
from training.data.panel import PanelWindows
from training.models.device import flushed_denormals
from training.models.losses import masked_huber

_FUSED: Final = frozenset({"cpu", "cuda"})
_PREDICT_BATCH: Final = 4096


class _AdamW(torch.optim.AdamW):
    """The same optimiser without the wrappers that keep torch's compiler out of these methods.

    Nothing is compiled here, and the first call of a wrapper imports the compiler: 800 modules, 2 s of processor time.
    """

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


@dataclass(frozen=True, slots=True)
class FitRule:
    """How a network is trained.

    Args:
        epochs: upper limit.
        batch: rows per step.
        patience: epochs without a better validation loss before training stops.
        huber_delta: label size, in volatilities, beyond which the loss is linear.
    """

    epochs: int = 12
    batch: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    patience: int = 3
    huber_delta: float = 1.0

    def __post_init__(self) -> None:
        if (
            self.epochs < 1
            or self.batch < 1
            or self.patience < 1
            or self.learning_rate <= 0
            or self.clip_norm <= 0
        ):
            raise SettingsError(f"fit rule {self} is out of range", hint="epochs, batch and patience from 1")


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Rows with their labels.

    Args:
        index: (N,) int64 row numbers.
        label: (N,) float32, 0 where masked.
        mask: (N,) bool, the label was observed.
    """

    index: torch.Tensor
    label: torch.Tensor
    mask: torch.Tensor

    def to(self, device: torch.device) -> TrainingRows:
        """Return the rows on a device."""
        return TrainingRows(self.index.to(device), self.label.to(device), self.mask.to(device))


@dataclass(frozen=True, slots=True)
class EpochLog:
    """Mean losses of one epoch, and the best epoch so far; `valid_loss` is NaN without valid rows."""

    epoch: int
    train_loss: float
    valid_loss: float
    best_epoch: int


@dataclass(slots=True)
class TrainingProgress:
    """State of a run after an epoch.

    Args:
        epoch: number of epochs done.
        best_epoch: the epoch whose weights are `best`.
        history: one entry per epoch.
        best: the best weights so far.
        state: current weights, optimiser and random states, from which another process can continue.
        is_done: no epoch is left, or patience ran out.
    """

    epoch: int
    best_epoch: int
    history: list[EpochLog]
    best: dict[str, torch.Tensor]
    state: dict[str, Any] = field(default_factory=dict)
    is_done: bool = False

    def cursor(self) -> dict[str, Any]:
        """Return the part without tensors as plain values, for a manifest."""
        return {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
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
                entry["epoch"], _float(entry["train_loss"]), _float(entry["valid_loss"]), entry["best_epoch"]
            )
            for entry in cursor["history"]
        ]
        return cls(
            cursor["epoch"], cursor["best_epoch"], history, dict(best), dict(state), bool(cursor["is_done"])
        )


def fit_network(
    network: nn.Module,
    windows: PanelWindows,
    train: TrainingRows,
    valid: TrainingRows | None,
    rule: FitRule,
    *,
    seed: int,
    resume: TrainingProgress | None = None,
    save: Callable[[TrainingProgress], None] | None = None,
) -> TrainingProgress:
    """Train a network in place, and load its best weights.

    Args:
        network: with initial weights; it is moved to the windows' device.
        windows: the features.
        train: rows to train on.
        valid: rows that choose the best epoch; without them all epochs run, and the last is the best.
        rule: training parameters.
        seed: of the order of rows and of dropout.
        resume: progress of an interrupted run with the same arguments.
        save: called after every epoch with the progress.
    """
    device = windows.device
    network.to(device)
    train, valid = train.to(device), valid.to(device) if valid is not None else None
    optimiser = _AdamW(
        network.parameters(),
        lr=rule.learning_rate,
        weight_decay=rule.weight_decay,
        fused=device.type in _FUSED,
    )
    order = torch.Generator().manual_seed(seed)
    with flushed_denormals(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        progress = TrainingProgress(0, 0, [], _weights(network))
        if resume is not None:
            progress = resume
            _restore(progress.state, network, optimiser, order, device)
        while not progress.is_done:
            train_loss = _train_epoch(network, windows, train, rule, optimiser, order)
            valid_loss = mean_loss(network, windows, valid, rule) if valid is not None else None
            _advance(progress, network, rule, train_loss, valid_loss)
            progress.state = _state(network, optimiser, order, device)
            if save is not None:
                save(progress)
    network.load_state_dict(progress.best)
    network.eval()
    return progress


def _train_epoch(
    network: nn.Module,
    windows: PanelWindows,
    rows: TrainingRows,
    rule: FitRule,
    optimiser: torch.optim.Optimizer,
    order: torch.Generator,
) -> float:
    network.train()
    shuffled = torch.randperm(len(rows.index), generator=order).to(windows.device)
    total = torch.zeros((), device=windows.device)
    for batch in torch.split(shuffled, rule.batch):
        x_BTF, mask_BTF = windows.batch(rows.index[batch])
        loss = masked_huber(
            network(x_BTF, mask_BTF), rows.label[batch], rows.mask[batch], delta=rule.huber_delta
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(network.parameters(), rule.clip_norm)
        optimiser.step()
        total += loss.detach() * len(batch)
    return float(total) / max(len(rows.index), 1)


def mean_loss(network: nn.Module, windows: PanelWindows, rows: TrainingRows, rule: FitRule) -> float:
    """Return the mean loss over rows in evaluation mode."""
    rows = rows.to(windows.device)
    return float(
        masked_huber(
            predict_network(network, windows, rows.index), rows.label, rows.mask, delta=rule.huber_delta
        )
    )


@torch.no_grad()
def predict_network(network: nn.Module, windows: PanelWindows, index: torch.Tensor) -> torch.Tensor:
    """Return a network's predictions for rows, (N,) float32 on the windows' device."""
    network.eval()
    parts = [
        network(*windows.batch(chunk)) for chunk in torch.split(index.to(windows.device), _PREDICT_BATCH)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, device=windows.device)


def _advance(
    progress: TrainingProgress, network: nn.Module, rule: FitRule, train_loss: float, valid_loss: float | None
) -> None:
    progress.epoch += 1
    losses = [entry.valid_loss for entry in progress.history if not math.isnan(entry.valid_loss)]
    # Without valid rows the last epoch is the best. A NaN loss is never the best.
    if valid_loss is None or valid_loss < min(losses, default=math.inf):
        progress.best_epoch = progress.epoch
        progress.best = _weights(network)
    logged = math.nan if valid_loss is None else valid_loss
    progress.history.append(EpochLog(progress.epoch, train_loss, logged, progress.best_epoch))
    stale = progress.epoch - progress.best_epoch
    progress.is_done = progress.epoch >= rule.epochs or stale >= rule.patience


def _weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def _state(
    network: nn.Module, optimiser: torch.optim.Optimizer, order: torch.Generator, device: torch.device
) -> dict[str, Any]:
    return {
        "weights": _weights(network),
        "optimiser": optimiser.state_dict(),
        "order": order.get_state(),
        "rng": torch.get_rng_state(),
        "device_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.empty(0),
    }


def _restore(
    state: Mapping[str, Any],
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    order: torch.Generator,
    device: torch.device,
) -> None:
    network.load_state_dict(state["weights"])
    optimiser.load_state_dict(state["optimiser"])
    order.set_state(state["order"])
    torch.set_rng_state(state["rng"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["device_rng"], device)


def _float(value: float | None) -> float:
    # JSON has no NaN; the manifest has null instead.
    return math.nan if value is None else value
