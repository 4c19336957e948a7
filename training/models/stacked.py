"""Many fits of one network as one program: each step trains a batch of every lane at once.

A stack has a fixed number of lanes. A lane holds one fit: its rows, weights, moments of AdamW and progress. Every step
gathers one batch per lane, and `torch.func.vmap` computes all lanes with one call of each operation, which pays where a
step costs more in calls than in arithmetic. Clipping, the optimiser, early stopping and the limit of epochs act on each
lane alone. A lane whose fit has ended takes the next one; without a next one it computes on rows without labels.

The bits of a fit depend on the number of lanes, but not on the other fits nor on its lane (a test checks both), so a
fit that was trained in one stack may be used in place of the same fit of another. They differ from those of
`fit_network`, which draws dropout from one generator and multiplies single matrices: without dropout by rounding only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from torch import nn
from torch.func import functional_call, vmap

from storage.errors import FitError, SettingsError
from training.data.panel import PanelWindows
from training.models.device import derive_seed, flushed_denormals
from training.models.fit_rule import FitRule
from training.models.losses import LossRows, group_by_time, prediction_loss
from training.models.trainer import (
    NOT_TRAINED,
    TrainedPart,
    TrainingProgress,
    TrainingRows,
    advance,
    epoch_batches,
    healthy_loss,
    part_of_epoch,
    part_rates,
    validate,
    weights_of,
)

_BETAS: Final = (0.9, 0.999)
_EPS: Final = 1e-8
_TINY: Final = 1e-6
_ONE_BY_ONE: Final = 'train its fits one by one: training.stacking = "off"'

Weights = dict[str, torch.Tensor]


class LaneDropout(nn.Module):
    """Dropout with a mask that is drawn outside, by the generator of the lane's fit."""

    keep: torch.Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("keep", torch.ones(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.keep if self.training else x


@dataclass(frozen=True, slots=True)
class StackedFit:
    """One fit of a stack; the arguments of `fit_network`.

    Args:
        network: with initial weights; it gets the best ones.
        windows: the features.
        train: rows to train on.
        valid: rows that choose the best point, or `None`.
        seed: of the order of rows and of dropout.
        points: validation points to train for, in place of the rule's epochs.
        resume: progress of an interrupted fit in a stack of as many lanes.
        save: called at every validation point with the progress.
    """

    network: nn.Module
    windows: PanelWindows
    train: TrainingRows
    valid: TrainingRows | None
    seed: int
    points: int | None = None
    resume: TrainingProgress | None = None
    save: Callable[[TrainingProgress], None] | None = None


@dataclass(slots=True)
class _Lane:
    """A fit in its lane, its place among all fits, and how far it is."""

    number: int
    fit: StackedFit
    train: TrainingRows
    valid: TrainingRows | None
    progress: TrainingProgress
    steps: int = 0
    epoch: int = -1
    batches: list[torch.Tensor] = field(default_factory=list)

    def next_part(self, rule: FitRule) -> list[torch.Tensor]:
        """Return the batches from this point to the next, as positions in the train rows."""
        point = self.progress.point
        if point // rule.checks != self.epoch:
            self.epoch = point // rule.checks
            self.batches = epoch_batches(
                self.train, rule, epoch=self.epoch, seed=self.fit.seed, n_steps=self.fit.windows.n_steps
            )
        return part_of_epoch(self.batches, rule, point)

    def rates(self, rule: FitRule) -> list[float]:
        """Return the learning rates of the batches of `next_part`."""
        return part_rates(len(self.batches), rule, self.progress.point)


def fit_stacked(fits: Sequence[StackedFit], rule: FitRule, *, lanes: int) -> list[TrainingProgress]:
    """Train networks of one kind in place, several at once, and load the best weights of each.

    Args:
        fits: on one device, with windows of one shape; any number.
        rule: training parameters of all.
        lanes: fits that train at once, from 2.

    Returns:
        Their progress, in the order of `fits`.

    Raises:
        SettingsError: too few lanes, or the network cannot be stacked.
        FitError: a fit diverged, or a row or a loss of it is not finite; the facts are those of `fit_network`, and
            `place`, that of the fit in `fits`.
    """
    if lanes < 2:
        raise SettingsError(f"a stack of {lanes} lanes is none", hint="use fit_network for a single fit")
    if not fits:
        return []
    with flushed_denormals():
        return _Stack(fits, rule, lanes).run()


class _Stack:
    """The stacked weights and moments of all lanes, and the loop over their parts.

    Axes: K lanes, B rows of a batch.
    """

    def __init__(self, fits: Sequence[StackedFit], rule: FitRule, lanes: int) -> None:
        self._fits, self._rule, self._device = fits, rule, fits[0].windows.device
        self._waiting = deque(range(len(fits)))
        self._lanes: list[_Lane | None] = [None] * lanes
        self._done: dict[int, TrainingProgress] = {}
        self._network = with_lane_dropout(fits[0].network).to(self._device).train()
        parameters = dict(self._network.named_parameters())
        if len(parameters) != len(self._network.state_dict()):
            raise SettingsError("this network has buffers and cannot be stacked", hint=_ONE_BY_ONE)
        self._weights = {
            name: torch.empty(lanes, *value.shape, device=self._device).requires_grad_()
            for name, value in parameters.items()
        }
        self._first = {name: torch.zeros_like(value) for name, value in self._weights.items()}
        self._second = {name: torch.zeros_like(value) for name, value in self._weights.items()}
        self._has_times = rule.loss == "time_ic"
        self._has_weights = any(fit.train.weight is not None for fit in fits)
        self._drops = dropout_shapes(self._network, fits[0].windows, rows=rule.batch)

    def run(self) -> list[TrainingProgress]:
        """Train until no fit is left, and return the progress of each."""
        while self._fill():
            parts = [lane.next_part(self._rule) if lane else [] for lane in self._lanes]
            losses = self._train(parts)
            for place, lane in enumerate(self._lanes):
                if lane is not None:
                    self._reach_point(place, lane, losses[place, : len(parts[place])], parts[place])
        return [self._done[place] for place in range(len(self._fits))]

    def _fill(self) -> bool:
        """Give waiting fits to free lanes, and return whether any lane has a fit."""
        for place in range(len(self._lanes)):
            while self._lanes[place] is None and self._waiting:
                self._enter(place, self._waiting.popleft())
        return any(lane is not None for lane in self._lanes)

    def _enter(self, place: int, number: int) -> None:
        """Start or continue a fit in a lane, up to its first point."""
        fit = self._fits[number]
        network = fit.network.to(self._device)
        lane = _Lane(
            number,
            fit,
            train=fit.train.to(self._device),
            valid=fit.valid.to(self._device) if fit.valid is not None else None,
            progress=fit.resume or TrainingProgress(-1, 0, [], weights_of(network)),
        )
        self._lanes[place] = lane
        state: Mapping[str, Any] = {"weights": weights_of(network), "steps": 0, "first": {}, "second": {}}
        if fit.resume is not None:
            state = fit.resume.state
        lane.steps = state["steps"]
        with torch.no_grad():
            for name, weights in self._weights.items():
                weights[place].copy_(state["weights"][name])
                for kind, moments in (("first", self._first), ("second", self._second)):
                    moments[name][place] = state[kind].get(name, 0.0)
        if fit.resume is None:
            self._reach_point(place, lane, torch.zeros(0), [])
        elif lane.progress.is_done:
            self._leave(place, lane)

    def _reach_point(self, place: int, lane: _Lane, losses: torch.Tensor, part: list[torch.Tensor]) -> None:
        """Validate a lane's fit, save its progress, and end it if it is done."""
        fit, rule, network = lane.fit, self._rule, lane.fit.network
        network.load_state_dict({name: value[place].detach() for name, value in self._weights.items()})
        trained, validated = NOT_TRAINED, None
        try:
            if part:
                epoch = (lane.progress.point + 1) / rule.checks
                loss = healthy_loss(network, fit.windows, lane.train, rule, part, losses, epoch=epoch)
                trained = TrainedPart(loss, sum(len(batch) for batch in part), lane.rates(rule)[-1])
            if lane.valid is not None:
                validated = validate(network, fit.windows, lane.valid, rule, lane.progress)
        except FitError as error:
            error.facts["place"] = lane.number
            raise
        last = rule.epochs * rule.checks if fit.points is None else fit.points
        advance(lane.progress, network, rule, trained, validated, last=last)
        lane.progress.state = {
            "weights": weights_of(network),
            "steps": lane.steps,
            "first": {name: value[place].cpu().clone() for name, value in self._first.items()},
            "second": {name: value[place].cpu().clone() for name, value in self._second.items()},
        }
        if fit.save is not None:
            fit.save(lane.progress)
        if lane.progress.is_done:
            self._leave(place, lane)

    def _leave(self, place: int, lane: _Lane) -> None:
        lane.fit.network.load_state_dict(lane.progress.best)
        lane.fit.network.eval()
        self._done[lane.number], self._lanes[place] = lane.progress, None

    def _train(self, parts: Sequence[list[torch.Tensor]]) -> torch.Tensor:
        """Train each lane on its batches, and return the loss of each batch, (K, steps)."""
        steps = max(len(part) for part in parts)
        losses = torch.zeros(len(parts), steps, device=self._device)
        draws = [self._generator(lane) for lane in self._lanes]
        rates = [lane.rates(self._rule) if lane else [] for lane in self._lanes]
        for step in range(steps):
            batches = [part[step] if step < len(part) else None for part in parts]
            gathered = self._gather(batches)
            keep = self._draw_dropout(draws, batches)
            losses_K = self._stacked_loss(keep, *gathered)
            losses_K.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self._update([rate[step] if step < len(rate) else None for rate in rates])
            losses[:, step] = losses_K.detach()
        return losses

    def _stacked_loss(self, keep: Weights, *batch: torch.Tensor) -> torch.Tensor:
        """Return the loss of each lane's batch, (K,).

        Raises:
            SettingsError: an operation of the network has no form for several lanes.
        """
        try:
            losses_K: torch.Tensor = vmap(self._loss)(self._weights, keep, *batch)
        except RuntimeError as error:
            if "atching rule" not in str(error) and "vmap" not in str(error):
                raise
            raise SettingsError(
                f"this network cannot be stacked: {str(error).splitlines()[0]}", hint=_ONE_BY_ONE
            ) from error
        return losses_K

    def _loss(
        self,
        weights: Weights,
        keep: Weights,
        x: torch.Tensor,
        mask: torch.Tensor,
        label: torch.Tensor,
        observed: torch.Tensor,
        weight: torch.Tensor,
        group: torch.Tensor,
    ) -> torch.Tensor:
        """Return the loss of one lane's batch."""
        output = functional_call(self._network, {**weights, **keep}, (x, mask))
        rows = LossRows(label, observed, weight if self._has_weights else None, group)
        return prediction_loss(self._rule.loss, output, rows, delta=self._rule.huber_delta)

    def _gather(self, batches: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Return windows and masks, and of labels values, masks, weights and times, each (K, B, ...).

        Rows that fill a batch up have no label.
        """
        found: list[tuple[torch.Tensor, ...]] = []
        filler = next(lane for lane in self._lanes if lane is not None)
        for lane, batch in zip(self._lanes, batches, strict=True):
            rows = (lane or filler).train
            chosen = torch.zeros(0, dtype=torch.int64, device=self._device) if batch is None else batch
            padded = torch.zeros(self._rule.batch, dtype=torch.int64, device=self._device)
            padded[: len(chosen)] = chosen
            observed = rows.mask[padded]
            observed[len(chosen) :] = False
            windows = (lane or filler).fit.windows
            index, label = rows.index[padded], rows.label[padded]
            weight = rows.weight[padded] if rows.weight is not None else torch.ones_like(label)
            # Filled rows have no label, so their time does not matter.
            group = group_by_time(index % windows.n_steps) if self._has_times else torch.zeros_like(index)
            found.append((*windows.batch(index), label, observed, weight, group))
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True))

    def _generator(self, lane: _Lane | None) -> torch.Generator:
        """Return the generator of a lane's dropout up to its next point."""
        if lane is None:
            return torch.Generator()
        return torch.Generator().manual_seed(derive_seed(lane.fit.seed, "dropout", lane.progress.point))

    def _draw_dropout(
        self, draws: Sequence[torch.Generator], batches: Sequence[torch.Tensor | None]
    ) -> Weights:
        """Return the masks of each dropout layer, (K, B, ...); lanes without a batch keep everything."""
        keep = {}
        for name, (rate, shape) in self._drops.items():
            masks = [
                torch.ones(shape)
                if batch is None
                else (torch.rand(shape, generator=draw) >= rate).to(torch.float32) / (1 - rate)
                for draw, batch in zip(draws, batches, strict=True)
            ]
            keep[name] = torch.stack(masks).to(self._device)
        return keep

    @torch.no_grad()
    def _update(self, rates: Sequence[float | None]) -> None:
        """Clip each lane's gradient, and apply AdamW at the rates of the lanes; those without a batch have none.

        Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019; as in torch.optim.AdamW.
        """
        for lane, own in zip(self._lanes, rates, strict=True):
            if lane is not None and own is not None:
                lane.steps += 1
        gradients = {name: value.grad for name, value in self._weights.items() if value.grad is not None}
        squares = torch.stack([grad.flatten(1).square().sum(1) for grad in gradients.values()])
        clip_K = (self._rule.clip_norm / (squares.sum(0).sqrt() + _TINY)).clamp(max=1.0)
        counts = torch.tensor(
            [max(lane.steps, 1) if lane else 1 for lane in self._lanes], dtype=torch.float64
        )
        bias_1, bias_2 = (1 - beta**counts for beta in _BETAS)
        rate_K = torch.tensor([own or 0.0 for own in rates], dtype=torch.float64)
        active = torch.tensor([own is not None for own in rates])
        step_K = (rate_K / bias_1).to(self._device, torch.float32)
        root_K = bias_2.sqrt().to(self._device, torch.float32)
        decay_K = (1 - rate_K * self._rule.weight_decay).to(self._device, torch.float32)
        weight_1, weight_2 = (
            torch.where(active, 1 - beta, 0.0).to(self._device, torch.float32) for beta in _BETAS
        )
        for name, weights in self._weights.items():
            shape = (-1,) + (1,) * (weights.dim() - 1)
            gradient = gradients[name] * clip_K.view(shape)
            first, second = self._first[name], self._second[name]
            first.add_((gradient - first) * weight_1.view(shape))
            second.add_((gradient.square() - second) * weight_2.view(shape))
            scale = second.sqrt().div_(root_K.view(shape)).add_(_EPS)
            weights.mul_(decay_K.view(shape)).sub_(first / scale * step_K.view(shape))
            weights.grad = None


def with_lane_dropout(network: nn.Module) -> nn.Module:
    """Return a copy of a network whose dropout layers take their masks from outside."""
    copy = deepcopy(network)
    for name, module in list(copy.named_modules()):
        if isinstance(module, nn.Dropout):
            parent, _, own = name.rpartition(".")
            setattr(copy.get_submodule(parent), own, LaneDropout(module.p))
    return copy


def dropout_shapes(
    network: nn.Module, windows: PanelWindows, *, rows: int
) -> dict[str, tuple[float, torch.Size]]:
    """Return rate and shape of the mask of each `LaneDropout`, by the name of its buffer, for batches of `rows`."""
    found: dict[str, tuple[float, torch.Size]] = {}

    def note(name: str, layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        assert isinstance(layer, LaneDropout)
        found[f"{name}.keep"] = (layer.rate, output.shape)

    hooks = [
        module.register_forward_hook(partial(note, name))
        for name, module in network.named_modules()
        if isinstance(module, LaneDropout)
    ]
    x, mask = windows.batch(torch.zeros(rows, dtype=torch.int64, device=windows.device))
    with torch.no_grad():
        network(x, mask)
    for hook in hooks:
        hook.remove()
    return found
