"""A replay in seconds: two nights on a planted edge, which the gate keeps on paper, since nothing is quoted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.leakage.perturbation import ProofResult
from features.panel.panel import Panel
from storage.clock import HOUR_NS, parse_time_ns
from storage.settings import Settings
from tests.training.builders import MINUTE_NS, START_NS, fill_lake, settings_in, walk
from tests.training.night.conftest import _prove_once
from training.night import leak_suite, preparation
from training.replay.policy import FinishedReplay, replay_policy
from training.replay.schedule import Schedule

FIRST_NIGHT = parse_time_ns("2025-02-21T04:30")
SCHEDULE = Schedule(FIRST_NIGHT, FIRST_NIGHT + 2 * HOUR_NS, HOUR_NS)
PROVEN_STEPS = 800
STEPS = (SCHEDULE.to_ns - START_NS) // MINUTE_NS
RECIPE = """
base = "demo"
name = "hourly"
feature_set = "candles"
window_bars = 4
stride = 4
seeds = 1
controls = ["ridge"]
challengers = ["lightgbm"]
[folds]
n_folds = 6
unit = "hour"
test_units = 4
valid_units = 2
train_units = 2
embargo_bars = 6
"""


def prices() -> np.ndarray:
    """Return the log prices, (2, T), of the whole range."""
    return walk(instruments=2, steps=STEPS, seed=3, signal=0.8, volatility=5e-3)


def home_with(folder: Path, log_price: np.ndarray) -> Settings:
    """Return settings of a home with these prices and the recipe."""
    settings = settings_in(folder)
    fill_lake(settings, log_price)
    recipe_of(settings).write_text(RECIPE, encoding="utf-8")
    return settings


def recipe_of(settings: Settings) -> Path:
    """Return the path of a home's recipe."""
    return settings.home / "hourly.toml"


def replay_in(settings: Settings, schedule: Schedule = SCHEDULE) -> FinishedReplay:
    """Run the replay; features are proven on fewer bars, and once for equal ones, to save time."""

    def prove_newest(panel: Panel, feature_set: str, *, seed: int) -> ProofResult:
        return _prove_once(panel.steps(-PROVEN_STEPS), feature_set, seed=seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "prove", prove_newest)
        patch.setattr(preparation, "PROOF_STEPS", PROVEN_STEPS)
        patch.setattr(leak_suite, "SHUFFLES", 2)
        return replay_policy(settings, recipe=str(recipe_of(settings)), schedule=schedule)
