"""Benchmark of the data path of training: batches, rows, leak counts, memory, and stacked fits.

- `step_rate`: training steps of a network on windows of 64 bars of 32 features with their masks, batches of 512. One
  limit is the same step on batches that were gathered before, another on one of them again and again, which stays in
  the processor's cache; torch's `DataLoader` takes one window at a time from a dataset, as FreqAI does, and so does
  Lightning's trainer with it (if `lightning` is installed; it is no dependency). Processor time of one thread.
- `rows_of_folds`: 1.7 million rows (200 instruments, 8,640 bars of five minutes, 48 features) and ten folds: the split
  with the leak count against 100 ms, and the numbers of all rows against 500 ms. What all folds share is included.
- `fold_memory`: what a process holds at most with a stored block and a pass over the windows of a fold, against 1.3
  times the block; in a process of its own.
- `stacked`: ten folds with three seeds of a network on single bars, batches of 64, as stacks and one by one.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from features.feature import FeatureBlock
from features.store.serialization import read_block, write_block
from storage.clock import NS
from tests.benchmarks.harness import Figure, bench, figures, measure, peak_mb
from tests.training.builders import GRACE_NS, START_NS, panel_of
from training.data.folds import Fold, FoldGeometry, split_rows
from training.data.labels import make_labels
from training.data.panel import Normaliser, PanelWindows, warm_up
from training.models.device import prepare_device
from training.models.losses import masked_huber
from training.models.lstm import WindowLSTM
from training.models.mlp import WindowMLP
from training.models.stacked import StackedFit, fit_stacked
from training.models.trainer import FitRule, TrainingRows, fit_network
from training.models.whole_windows import predict_whole
from training.night.artifacts import NightData
from training.night.fold_training import FoldRows, fold_rows
from training.night.preparation import count_row_leaks, plan_night_folds
from training.recipe import RECIPES, Recipe

WINDOW: Final = 64
FEATURES: Final = 32
BATCH: Final = 512
STEPS: Final = {"mlp": 40, "lstm": 4}
LEAKS_LIMIT_S: Final = 0.1
ROWS_LIMIT_S: Final = 0.5
MEMORY_LIMIT: Final = 1.3
NETWORKS: Final[dict[str, Callable[[int, int], nn.Module]]] = {"mlp": WindowMLP, "lstm": WindowLSTM}


def made_block(instruments: int, steps: int, features: int, *, width_ns: int = 60 * NS) -> FeatureBlock:
    """Return random features, a tenth of them missing."""
    draw = torch.Generator().manual_seed(0)
    shape = (instruments, steps, features)
    mask = torch.rand(shape, generator=draw) < 0.9
    return FeatureBlock(
        names=tuple(f"feature_{n}" for n in range(features)),
        values=torch.where(mask, torch.randn(shape, generator=draw), 0.0),
        mask=mask,
        instruments=tuple(f"made|perp|C{n}" for n in range(instruments)),
        width_ns=width_ns,
        ts_open_ns=START_NS + width_ns * np.arange(steps, dtype=np.int64),
        fingerprint="made",
    )


def windows_of(block: FeatureBlock, window: int) -> PanelWindows:
    """Return windows under a normaliser of all rows."""
    rows = torch.ones(block.mask.shape[:2], dtype=torch.bool)
    normaliser = Normaliser.fit(block.values, block.mask, rows)
    return PanelWindows(block, normaliser, window_bars=window, device=prepare_device("cpu", threads=1))


class WindowItems(Dataset[torch.Tensor]):
    """One window at a time, cut from a block that is standardised already."""

    def __init__(self, block: FeatureBlock, rows: torch.Tensor) -> None:
        self._both = torch.cat((block.values, block.mask.to(torch.float32)), dim=-1)
        self._rows, self._n_steps = rows.tolist(), block.values.shape[1]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> torch.Tensor:
        s, t = divmod(self._rows[place], self._n_steps)
        return self._both[s, t - WINDOW + 1 : t + 1]


def stepper(name: str) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Return a training step of a network."""
    torch.manual_seed(0)
    network = NETWORKS[name](WINDOW, FEATURES).train()
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    observed = torch.ones(BATCH, dtype=torch.bool)

    def step(both: torch.Tensor, label: torch.Tensor) -> None:
        loss = masked_huber(predict_whole(network, both), label, observed)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()

    return step


def lightning_trainer(
    name: str, loader: DataLoader[torch.Tensor], label: torch.Tensor
) -> dict[str, Callable[[], None]]:
    """Return an epoch of the same step under Lightning's trainer; nothing where it is not installed."""
    if importlib.util.find_spec("lightning") is None:
        return {}
    pl = importlib.import_module("lightning.pytorch")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    torch.manual_seed(0)

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]  # an optional import
        def __init__(self) -> None:
            super().__init__()
            self.network = NETWORKS[name](WINDOW, FEATURES)
            self.observed = torch.ones(BATCH, dtype=torch.bool)

        def training_step(self, both: torch.Tensor) -> torch.Tensor:
            return masked_huber(predict_whole(self.network, both), label, self.observed)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.network.parameters(), fused=True)

    module = Module()

    def epoch() -> None:
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=1.0,
        )
        trainer.fit(module, loader)

    return {"Lightning's trainer with it": epoch}


@bench
def step_rate() -> Iterator[Figure]:
    """Yield the rate of training steps of each network."""
    block = made_block(20, 5_000, FEATURES)
    windows = windows_of(block, WINDOW)
    for name, steps in STEPS.items():
        draw = torch.Generator().manual_seed(1)
        step_of = torch.randint(WINDOW, 5_000, (steps * BATCH,), generator=draw)
        rows = torch.randint(0, 20, (steps * BATCH,), generator=draw) * 5_000 + step_of
        batches, label = rows.split(BATCH), torch.randn(BATCH, generator=draw)
        step, all_gathered = stepper(name), [windows.gather(batch) for batch in batches]
        loader = DataLoader(WindowItems(block, rows), batch_size=BATCH)

        def ours(step=step, batches=batches, label=label) -> None:  # type: ignore[no-untyped-def]
            buffer = windows.buffer(BATCH)
            for batch in batches:
                step(windows.gather(batch, into=buffer), label)

        def limit(step=step, all_gathered=all_gathered, label=label) -> None:  # type: ignore[no-untyped-def]
            for gathered in all_gathered:
                step(gathered, label)

        def one_batch(step=step, all_gathered=all_gathered, label=label) -> None:  # type: ignore[no-untyped-def]
            for _ in all_gathered:
                step(all_gathered[0], label)

        def items(step=step, loader=loader, label=label) -> None:  # type: ignore[no-untyped-def]
            for both in loader:
                step(both, label)

        contenders = {
            "ours": ours,
            "batches gathered before": limit,
            "one gathered batch, again and again": one_batch,
            "DataLoader, one window at a time": items,
        } | lightning_trainer(name, loader, label)
        taken = measure(contenders, rounds=7)
        rate = steps * BATCH / taken["ours"]
        yield from figures(f"step rate, {name}", taken, ours="ours", value=rate, unit="samples/s of one core")


def made_night() -> tuple[NightData, Recipe, list[Fold]]:
    """Return a night of 1.7 million rows, with ten folds of two days."""
    rng = np.random.default_rng(0)
    price = np.exp(np.cumsum(rng.standard_normal((200, 8_640)) * 1e-3, axis=1))
    panel = panel_of(price, width="5m")
    block = made_block(200, 8_640, 48, width_ns=panel.width_ns)
    recipe = replace(
        RECIPES["candles"],
        folds=FoldGeometry(
            n_folds=10, embargo_bars=36, unit="day", test_units=2, valid_units=2, train_units=4
        ),
    )
    labels = make_labels(panel, recipe.label, grace_ns=GRACE_NS)
    data = NightData(panel, block, labels, labels.scale, None)
    return data, recipe, plan_night_folds(data, recipe)


@bench
def rows_of_folds() -> Iterator[Figure]:
    """Yield the time of row numbers, and of splits and leak counts, of ten folds."""
    data, recipe, folds = made_night()
    labels = data.labels
    times = labels.ts_decided_ns, labels.ts_span_end_ns
    found: list[FoldRows] = []

    def numbers() -> None:
        fresh = replace(data)  # what folds share is computed again
        found[:] = [fold_rows(fresh, split_rows(fold, *times), recipe) for fold in folds]

    def leaks() -> None:
        for fold, rows in zip(folds, found, strict=True):
            split_rows(fold, *times)
            assert count_row_leaks(fold, rows, labels).total == 0

    taken = measure({"numbers": numbers, "leaks": leaks}, rounds=5)
    shape = f"{len(folds)} folds of {labels.mask.numel():,} rows"
    for name, limit_s in (("numbers", ROWS_LIMIT_S), ("leaks", LEAKS_LIMIT_S)):
        what = "row numbers" if name == "numbers" else "split and leak count"
        yield Figure(
            f"{what}, {shape}", round(1e3 * taken[name], 1), "ms of processor", f"a limit of {1e3 * limit_s:g} ms",
            round(limit_s / taken[name], 2),
        )  # fmt: skip


@bench
def fold_memory() -> Iterator[Figure]:
    """Yield the memory of a pass over a fold's windows, measured in a process of its own."""
    block = made_block(200, 8_640, 48)
    stored_mb = block.values.numel() * 5 / 2**20
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.safetensors"
        write_block(path, block)
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.bench_training", str(path)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    before_mb, after_mb = json.loads(done.stdout.splitlines()[-1])
    used = (after_mb - before_mb) / stored_mb
    yield Figure(
        f"memory of a fold, stored block of {stored_mb:.0f} MB", round(used, 3), "times the stored block",
        f"a limit of {MEMORY_LIMIT} times", round(MEMORY_LIMIT / used, 2),
    )  # fmt: skip


def pass_over(path: Path) -> tuple[float, float]:
    """Return the most MB that were resident before a block was read, and after a pass over all of its windows."""
    warm_up()  # the compiler is no part of a fold
    before_mb = peak_mb()
    windows = windows_of(read_block(path), WINDOW)
    rows = torch.arange(200 * 8_640)
    for batch in rows[torch.randperm(len(rows))].split(BATCH):
        windows.gather(batch)
    return before_mb, peak_mb()


@bench
def stacked() -> Iterator[Figure]:
    """Yield the time of thirty fits as stacks, beside one by one."""
    windows = windows_of(made_block(20, 3_000, 24), 1)
    draw = torch.Generator().manual_seed(2)
    order, label = torch.randperm(60_000, generator=draw), torch.randn(60_000, generator=draw)
    rule = FitRule(epochs=2, batch=64, checks=2)

    def rows(first: int, count: int) -> TrainingRows:
        index = order[first : first + count]
        return TrainingRows(index, label[index], torch.ones(count, dtype=torch.bool))

    def fits() -> list[StackedFit]:
        found = []
        for fold in range(10):
            for seed in range(3):
                torch.manual_seed(seed)
                network = WindowMLP(1, 24)
                train, valid = rows(0, 6_000 + 700 * fold), rows(50_000, 2_000)
                found.append(StackedFit(network, windows, train, valid, seed))
        return found

    def one_by_one() -> None:
        for fit in fits():
            fit_network(fit.network, windows, fit.train, fit.valid, rule, seed=fit.seed)

    contenders = {"stacked": lambda: fit_stacked(fits(), rule, lanes=16), "one by one": one_by_one}
    taken = measure(contenders, rounds=3)
    yield from figures(
        "thirty fits of an MLP on single bars, batch 64",
        taken,
        ours="stacked",
        value=taken["stacked"],
        unit="s",
    )


if __name__ == "__main__":
    print(json.dumps(pass_over(Path(sys.argv[1]))))
