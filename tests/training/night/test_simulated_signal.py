"""The signal of the simulated venue in a night: it has the IC that its formula states, and models find part of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from ingest.simulator.market.spec import MarketSpec
from serving.demo import record_market
from serving.nightly import run_night
from tests.ingest.simulator.test_market_signal import best_predictor
from tests.training.builders import settings_in
from training.evaluation.metrics import score_predictions
from training.night.artifacts import NightArtifacts, NightData


def imbalance_of(data: NightData) -> np.ndarray:
    """Return the imbalance of each bar, (S, T) in -1 .. 1, 0 without prints."""
    buy, volume = (np.nan_to_num(data.panel.values[name].numpy()) for name in ("buy_volume", "volume"))
    imbalance: np.ndarray = np.divide(2 * buy - volume, volume, out=np.zeros_like(volume), where=volume > 0)
    return imbalance


@pytest.mark.drill
@pytest.mark.parametrize("strength", [0.15, 0.3])
def test_a_recorded_night_has_the_expected_ic_five_minutes_ahead_and_a_minute_late(
    tmp_path: Path, strength: float
) -> None:
    spec = MarketSpec(
        span_s=48 * 3_600.0 + 5.0, activity=0.25, context_s=20, book_s=60, signal_strength=strength
    )
    settings = settings_in(tmp_path)
    settings.ensure_home()
    asyncio.run(record_market(settings, spec))
    night = NightArtifacts.find(settings, run_night(settings, recipe="demo").night)
    recipe, data = night.recipe, night.read_data()
    assert (recipe.width, recipe.label.horizon_bars) == ("1m", 5)
    folds = night.read("folds.json")["folds"]
    decided = data.labels.ts_decided_ns
    tested = (decided >= folds[0]["test"][0]) & (decided < folds[-1]["test"][1])
    shown = data.labels.mask.numpy() & tested
    best = score_predictions(
        best_predictor(imbalance_of(data), spec.signal_memory)[shown],
        data.labels.label.numpy()[shown],
        np.nonzero(shown)[1],
        block_steps=20,
        seed=0,
    ).ic
    expected = spec.expected_ic(5, delay_min=1)
    assert best.low < expected < best.high
    assert best.high - best.low < 0.6 * expected
    models = night.read("summary.json")["models"]
    found = {name: row["test"]["ic"] for name, row in models.items() if name != "zero"}
    print(f"expected {expected:.3f}, best {best}, models {found}")
    # Half a day to a day and a half of bars teaches half of it or more, and nothing finds more than there is.
    assert max(ic["value"] for ic in found.values()) > 0.5 * expected
    assert all(ic["low"] < expected for ic in found.values())
