"""Smallest inputs of a whole night: three days of candles and a recipe of seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.backfill.candle_files import import_candles
from storage.lake.lake import Lake
from storage.settings import Settings
from storage.settings.services import TrainingSettings

TRAINING = TrainingSettings(device="cpu", threads=1)
COINS = ("BTC", "ETH", "SOL")
FIRST_MS = 1_760_918_400_000  # 2025-10-20T00:00Z
BARS = 900  # of five minutes: until 2025-10-23T03:00Z
FOLDS = 2
RECIPE = """
base = "candles"
name = "small"
window_bars = 4
stride = 2
seeds = 1
controls = ["zero", "ridge"]
challengers = ["mlp"]
[label]
horizon_bars = 3
volatility_bars = 24
[folds]
n_folds = 2
embargo_bars = 6
unit = "hour"
test_units = 6
valid_units = 6
[position]
hold_bars = 3
[fit]
epochs = 1
"""


def write_candles(path: Path) -> None:
    """Write random walks of three coins, five-minute candles, seeded."""
    draw = np.random.default_rng(7)
    opens_ms = FIRST_MS + 300_000 * np.arange(BARS)
    tables = []
    for place, coin in enumerate(COINS):
        close = 100.0 * (place + 1) * np.exp(np.cumsum(draw.normal(0.0, 1e-3, BARS)))
        open_ = np.concatenate([close[:1], close[:-1]])
        reach = 1 + np.abs(draw.normal(0.0, 5e-4, BARS))
        tables.append(
            pa.table(
                {
                    "coin": pa.array([coin] * BARS),
                    "ts_open": pa.array(opens_ms, pa.timestamp("ms", tz="UTC")),
                    "open": pa.array(open_),
                    "high": pa.array(np.maximum(open_, close) * reach),
                    "low": pa.array(np.minimum(open_, close) / reach),
                    "close": pa.array(close),
                    "volume": pa.array(draw.uniform(1.0, 9.0, BARS)),
                    "trades": pa.array(draw.integers(1, 90, BARS)),
                }
            )
        )
    pq.write_table(pa.concat_tables(tables), path)


def furnish(settings: Settings, *, epochs: int = 1, name: str = "small") -> Path:
    """Fill the home's lake with those candles and return the recipe's file."""
    settings.ensure_home()
    candles = settings.home / "candles.parquet"
    write_candles(candles)
    with Lake.open(settings) as lake:
        import_candles(candles, settings, lake)
    recipe = settings.home / f"{name}.toml"
    text = RECIPE.replace('name = "small"', f'name = "{name}"').replace("epochs = 1", f"epochs = {epochs}")
    recipe.write_text(text, encoding="utf-8")
    return recipe
