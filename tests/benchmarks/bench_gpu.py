"""Benchmark of training on a GPU: data path, steps and stacked fits; without one it says so.

- `gather`: windows gathered from a resident block and standardised, against the time that its bytes need at the copy
  rate of the device (the roofline), measured in the same run.
- `steps`: training steps of an MLP and a transformer fed by that gather, against the same steps on a gathered batch.
- `stacked`: sixteen fits of an MLP as a stack against one by one.

Wall time, as the device works while the host waits. It was never run on a GPU; a test runs it on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import nn

from tests.benchmarks.bench_training import made_block
from tests.benchmarks.harness import Figure, bench
from training.data.panel import Normaliser, PanelWindows
from training.models.fit_rule import FitRule
from training.models.losses import LossRows
from training.models.mlp import WindowMLP
from training.models.stacked import StackedFit, fit_stacked
from training.models.train_step import TrainStep, make_optimiser
from training.models.trainer import TrainingRows, fit_network
from training.models.transformer import WindowTransformer

WINDOW: Final = 64
FEATURES: Final = 48
BATCH: Final = 4_096
NETWORKS: Final[dict[str, Callable[[int, int], nn.Module]]] = {
    "mlp": WindowMLP,
    "transformer": WindowTransformer,
}


@bench
def gpu() -> Iterator[Figure]:
    """Yield the figures of the first GPU, or one that says that there is none."""
    if not torch.cuda.is_available():
        yield Figure("gpu", 0.0, "CUDA devices", "there is none here, so nothing was measured", 0.0)
        return
    yield from figures_of(torch.device("cuda"), name=torch.cuda.get_device_name())


def figures_of(
    device: torch.device, *, name: str, steps: int = 50_000, batch: int = BATCH, rounds: int = 50
) -> Iterator[Figure]:
    """Yield the figures of a device.

    Args:
        device: to measure.
        name: of the device.
        steps: bars of each of 50 instruments.
        batch: rows of a step.
        rounds: steps that are measured.
    """
    block = made_block(50, steps, FEATURES)
    normaliser = Normaliser.fit(block.values, block.mask, torch.ones(block.mask.shape[:2], dtype=torch.bool))
    windows = PanelWindows(block, normaliser, window_bars=WINDOW, device=device, is_resident=True)
    draw = torch.Generator().manual_seed(0)
    batches = torch.randint(0, 50 * steps, (rounds, batch), generator=draw).to(device)

    # 1. The gather: it reads values and masks, 5 bytes, and writes both as float32, 8 bytes.
    taken = _seconds(lambda number: windows.gather(batches[number]), rounds, device)
    moved = batch * WINDOW * FEATURES * (5 + 8)
    copied = torch.empty(max(moved // 8, 1), device=device)
    copy_s = _seconds(lambda _: copied.clone(), rounds, device)
    rate = rounds * batch / taken
    share = copy_s / taken
    yield Figure(
        f"gather on {name}", round(rate), "samples/s", "roofline of a copy of its bytes", round(share, 3)
    )

    # 2. Steps.
    label = torch.randn(batch, generator=draw).to(device)
    rows = LossRows(label, torch.ones(batch, dtype=torch.bool, device=device), None, None)
    rule = FitRule(batch=batch)
    for kind, make in NETWORKS.items():
        network = make(WINDOW, FEATURES).to(device).train()
        step = TrainStep(network, make_optimiser(network, rule, device), rule, device)
        gathered = windows.gather(batches[0])

        def fed(number: int, step: TrainStep = step) -> torch.Tensor:
            return step(windows.gather(batches[number]), rows, rate=1e-3)

        def bare(_: int, step: TrainStep = step, gathered: torch.Tensor = gathered) -> torch.Tensor:
            return step(gathered, rows, rate=1e-3)

        fed_s, bare_s = (_seconds(run, rounds, device) for run in (fed, bare))
        yield Figure(
            f"steps of {kind} on {name}", round(rounds * batch / fed_s), "samples/s", "gathered already",
            round(bare_s / fed_s, 3),
        )  # fmt: skip

    # 3. Stacked fits.
    yield _stacked_figure(windows, batches.flatten(), name, device)


def _stacked_figure(windows: PanelWindows, order: torch.Tensor, name: str, device: torch.device) -> Figure:
    rule = FitRule(epochs=1, checks=1, batch=256)
    index = order[:4_096].cpu()
    rows = TrainingRows(index, torch.randn(len(index)), torch.ones(len(index), dtype=torch.bool))

    def networks() -> list[nn.Module]:
        return [WindowMLP(WINDOW, FEATURES).to(device) for _ in range(16)]

    def stack(_: int) -> object:
        fits = [StackedFit(network, windows, rows, None, n, points=1) for n, network in enumerate(networks())]
        return fit_stacked(fits, rule, lanes=16)

    def alone(_: int) -> object:
        return [
            fit_network(network, windows, rows, None, rule, seed=n, points=1)
            for n, network in enumerate(networks())
        ]

    stacked_s, alone_s = (_seconds(run, 1, device) for run in (stack, alone))
    return Figure(
        f"sixteen fits of an MLP on {name}",
        round(stacked_s, 3),
        "s",
        "one by one",
        round(alone_s / stacked_s, 2),
    )


def _seconds(run: Callable[[int], object], rounds: int, device: torch.device) -> float:
    """Return the wall time of some rounds, after one that warms up."""
    run(0)
    _wait(device)
    began_s = time.perf_counter()
    for number in range(rounds):
        run(number)
    _wait(device)
    return time.perf_counter() - began_s


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
