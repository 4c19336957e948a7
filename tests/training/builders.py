"""Panels, feature blocks and lakes for tests of training."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from features.feature import FeatureBlock
from features.panel.panel import Panel
from storage.clock import NS, width_ns
from storage.contracts.tables import BARS, STATUSES
from storage.lake.lake import Lake
from storage.settings import Settings
from storage.settings.services import TrainingSettings
from training.models.checkpoint import CheckpointStamp

MINUTE_NS = 60 * NS
START_NS = 1_740_000_000 * NS // MINUTE_NS * MINUTE_NS
GRACE_NS = 2 * NS
SMALL_RECIPE = """
base = "demo"
name = "{name}"
rows = "{rows}"
feature_set = "candles"
window_bars = 4
stride = 2
seeds = 1
controls = ["ridge"]
challengers = ["mlp"]
[folds]
n_folds = 1
unit = "hour"
test_units = 2
valid_units = 2
train_units = 2
embargo_bars = 6
[fit]
epochs = 2
batch = 128
"""
"""A night of one fold and two models over some hours; takes a name, and the rows that teach."""


def panel_of(
    close: list[list[float]] | np.ndarray,
    *,
    status: list[list[str]] | None = None,
    bid: list[list[float]] | None = None,
    ask: list[list[float]] | None = None,
    notional: list[list[float]] | None = None,
    width: str = "1m",
    start_ns: int = START_NS,
) -> Panel:
    """Return a panel of closes; a NaN close is `quiet` unless `status` says otherwise."""
    closes = torch.tensor(np.asarray(close, dtype=np.float64))
    n_instruments, n_steps = closes.shape
    if status is None:
        status = [["printed" if np.isfinite(x) else "quiet" for x in row] for row in closes.tolist()]
    values = {"close": closes}
    for name, given in (("bid", bid), ("ask", ask), ("notional", notional)):
        if given is not None:
            values[name] = torch.tensor(given, dtype=torch.float64)
    step_ns = width_ns(width)
    return Panel(
        instruments=tuple(f"hyperliquid|perp|C{i}" for i in range(n_instruments)),
        width_ns=step_ns,
        ts_open_ns=start_ns + step_ns * np.arange(n_steps, dtype=np.int64),
        values=values,
        status=torch.tensor([[STATUSES.index(x) for x in row] for row in status], dtype=torch.uint8),
    )


def block_of(*, instruments: int = 3, steps: int = 20, seed: int = 0) -> FeatureBlock:
    """Return two random features, a fifth of them missing."""
    shape = (instruments, steps, 2)
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=draw) < 0.8
    values = torch.where(mask, torch.randn(shape, generator=draw) * 3 + 1, torch.zeros(()))
    return FeatureBlock(
        names=("a", "b"),
        values=values,
        mask=mask,
        instruments=tuple(f"hyperliquid|perp|C{i}" for i in range(instruments)),
        width_ns=MINUTE_NS,
        ts_open_ns=START_NS + MINUTE_NS * np.arange(steps, dtype=np.int64),
        fingerprint="f",
    )


def stamp_of() -> CheckpointStamp:
    """Return the stamp of some network."""
    return CheckpointStamp(
        model="mlp",
        fold=1,
        seed=7,
        recipe={"name": "demo", "stride": 1},
        feature_names=("a", "b"),
        feature_fingerprint="f" * 8,
        content_hash="c" * 8,
        snapshot=3,
        code="0.1.0+gabc",
        training_code="t" * 8,
        lock="l" * 8,
        torch_version="2.13.0",
        device="cpu",
        hardware="AVX2",
        threads=1,
        rows="served",
        stacking="one by one",
    )


def walk(
    *, instruments: int, steps: int, seed: int, signal: float = 0.0, volatility: float = 1e-3
) -> np.ndarray:
    """Return log prices, (S, T); with a signal, returns share a slowly changing drift, so the past is predictive."""
    rng = np.random.default_rng(seed)
    noise, drive = rng.standard_normal((2, instruments, steps))
    drift = np.zeros_like(noise)
    for step in range(1, steps):
        drift[:, step] = 0.95 * drift[:, step - 1] + (1 - 0.95**2) ** 0.5 * drive[:, step]
    returns = signal * drift + (1 - signal**2) ** 0.5 * noise
    return np.log(100.0) + np.cumsum(returns * volatility, axis=1)


def settings_in(home: Path, *, seed: int = 7) -> Settings:
    """Return settings of a home, on one thread of a CPU."""
    return Settings(home=home, training=TrainingSettings(device="cpu", seed=seed, threads=1))


def fill_lake(
    settings: Settings,
    log_price: np.ndarray,
    *,
    width: str = "1m",
    but: Mapping[int, Collection[int]] | None = None,
) -> None:
    """Commit one printed bar per instrument and step, knowable a second after its close.

    Args:
        settings: the home.
        log_price: (S, T).
        width: of the bars.
        but: steps to leave out, by instrument.
    """
    step_ns = width_ns(width)
    n_instruments, n_steps = log_price.shape
    opens = START_NS + step_ns * np.arange(n_steps, dtype=np.int64)
    close = np.exp(log_price)
    before = np.concatenate([close[:, :1], close[:, :-1]], axis=1)
    count = n_instruments * n_steps
    columns = {
        "instrument": np.repeat([f"hyperliquid|perp|C{i}" for i in range(n_instruments)], n_steps),
        "width": [width] * count,
        "ts_open": np.tile(opens // 1000, n_instruments),
        "ts_close": np.tile((opens + step_ns) // 1000, n_instruments),
        "revision": np.zeros(count, dtype=np.int32),
        "status": ["printed"] * count,
        "cause": [""] * count,
        "session": ["always"] * count,
        "origin": ["live"] * count,
        "observed_ms": np.full(count, step_ns // 1_000_000),
        "repaired": [False] * count,
        "certified": [False] * count,
        "open": before.flatten(),
        "high": np.maximum(before, close).flatten() * 1.0001,
        "low": np.minimum(before, close).flatten() * 0.9999,
        "close": close.flatten(),
        "volume": np.full(count, 1e4),
        "notional": np.full(count, 1e6),
        "trades_applicable": [True] * count,
        "ts_knowable_ns": np.tile(opens + step_ns + NS, n_instruments),
        "ts_available_ns": np.tile(opens + step_ns + NS, n_instruments),
    }
    arrays = [
        pa.array(columns[item.name], item.type) if item.name in columns else pa.nulls(count, item.type)
        for item in BARS.schema
    ]
    rows = pa.table(arrays, names=BARS.schema.names)
    absent = {instrument * n_steps + step for instrument, steps in (but or {}).items() for step in steps}
    rows = rows.filter(pa.array([number not in absent for number in range(count)]))
    with Lake.open(settings) as lake:
        done = lake.commit({"bars": rows}, batch_id=f"bars-{n_steps}", inputs={})
    assert done.rows["bars"] == count - len(absent)
    assert done.refused == 0
