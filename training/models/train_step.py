"""One step of training: loss, gradient, clipping and AdamW, on a GPU in bf16 and replayed as a CUDA graph.

The parts for a GPU are used on CUDA devices only. No test of this project runs them: they are untested.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch
from torch import nn

from training.models.fit_rule import FitRule
from training.models.losses import LossRows, prediction_loss
from training.models.whole_windows import predict_whole

_FUSED: Final = frozenset({"cpu", "cuda"})
_EAGER_STEPS: Final = 3
"""Steps before a CUDA graph is captured: torch asks for some, on another stream, so that its libraries are set up."""


class _AdamW(torch.optim.AdamW):
    """The same optimiser without the wrappers that keep torch's compiler out of these methods.

    Nothing is compiled here, and the first call of a wrapper imports the compiler: 800 modules, 2 s of processor time.
    """

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def make_optimiser(network: nn.Module, rule: FitRule, device: torch.device) -> torch.optim.Optimizer:
    """Return fused AdamW, whose steps can be captured on a GPU."""
    return _AdamW(
        network.parameters(),
        lr=rule.learning_rate,
        weight_decay=rule.weight_decay,
        fused=device.type in _FUSED,
        capturable=device.type == "cuda" and rule.cuda_graphs,
    )


class TrainStep:
    """Steps of one run.

    Args:
        network: in training mode.
        optimiser: of its weights.
        rule: loss and clipping.
        device: of the weights and of all batches.
    """

    def __init__(
        self, network: nn.Module, optimiser: torch.optim.Optimizer, rule: FitRule, device: torch.device
    ) -> None:
        self._network, self._optimiser, self._rule, self._device = network, optimiser, rule, device
        self._rate = torch.zeros((), device=device)
        self._graph: _StepGraph | None = None
        self._done = 0

    def __call__(self, both: torch.Tensor, rows: LossRows, *, rate: float) -> torch.Tensor:
        """Train on one batch at a learning rate, and return its loss, without waiting for the device."""
        self._set_rate(rate)
        if self._device.type != "cuda" or not self._rule.cuda_graphs or len(both) < self._rule.batch:
            return self._step(both, rows)
        self._done += 1
        if self._done <= _EAGER_STEPS:
            return self._on_side_stream(both, rows)
        if self._graph is None:
            self._graph = _StepGraph(self, both, rows)
        return self._graph.replay(both, rows)

    def _step(self, both: torch.Tensor, rows: LossRows) -> torch.Tensor:
        with reduced_precision(self._rule, self._device):
            output = predict_whole(self._network, both)
        loss = prediction_loss(self._rule.loss, output.float(), rows, delta=self._rule.huber_delta)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(self._network.parameters(), self._rule.clip_norm)
        self._optimiser.step()
        return loss.detach()

    def _set_rate(self, rate: float) -> None:
        for group in self._optimiser.param_groups:
            # A graph reads the rate from the device; elsewhere a number is faster.
            group["lr"] = self._rate.fill_(rate) if group["capturable"] else rate

    def _on_side_stream(self, both: torch.Tensor, rows: LossRows) -> torch.Tensor:
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            loss = self._step(both, rows)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        return loss


class _StepGraph:
    """One captured step, which reads its batch from tensors of its own."""

    def __init__(self, step: TrainStep, both: torch.Tensor, rows: LossRows) -> None:
        self._inputs = [part.clone() for part in _tensors(both, rows)]
        parts = iter(self._inputs)
        own_both, label, observed = (next(parts) for _ in range(3))
        weight = next(parts) if rows.weight is not None else None
        own = LossRows(label, observed, weight, next(parts) if rows.group is not None else None)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = step._step(own_both, own)

    def replay(self, both: torch.Tensor, rows: LossRows) -> torch.Tensor:
        for own, given in zip(self._inputs, _tensors(both, rows), strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._loss.clone()


def _tensors(both: torch.Tensor, rows: LossRows) -> list[torch.Tensor]:
    more = [part for part in (rows.weight, rows.group) if part is not None]
    return [both, rows.label, rows.mask, *more]


def reduced_precision(rule: FitRule, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a network computes: bf16 on a GPU if the rule says so."""
    if device.type == "cuda" and rule.bfloat16:
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()
