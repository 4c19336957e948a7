"""Whole nights on markets of pure bid-ask bounce: predictable, and worth nothing.

The short form at the level of the ledger is tests/training/evaluation/test_bounce_market.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.builders import fill_lake, settings_in
from tests.training.evaluation.bounce import SIDES, bounce_market
from tests.training.night.test_pinned_inputs import RECIPE
from training.night.artifacts import NightArtifacts
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_fold

CHANGES = {
    'controls = ["ridge"]': 'controls = ["zero", "momentum", "ridge"]',
    'challengers = ["mlp"]': 'challengers = ["lightgbm", "mlp"]',
    "stride = 2": "stride = 1",  # every second row shows one side of an alternating market
    "n_folds = 1": "n_folds = 2",
    "test_units = 2": "test_units = 8",
    "valid_units = 2": "valid_units = 6",
    "train_units = 2": "train_units = 24",
}


@pytest.mark.drill
@pytest.mark.parametrize("horizon", [5, 12])
@pytest.mark.parametrize("half", [6e-4, 15e-4])
@pytest.mark.parametrize("sides", SIDES)
def test_no_model_earns_from_bounce_and_none_is_promoted(
    tmp_path: Path, sides: str, half: float, horizon: int
) -> None:
    settings = settings_in(tmp_path)
    prices = bounce_market(flip=SIDES[sides], half=half, steps=3000, seed=horizon).prices
    fill_lake(settings, np.log(prices[3]))
    recipe = RECIPE
    for before, after in CHANGES.items():
        assert before in recipe
        recipe = recipe.replace(before, after)
    bars = f"[label]\nhorizon_bars = {horizon}\n[position]\nhold_bars = {horizon}\n"
    path = tmp_path / "bounce.toml"
    path.write_text(recipe + bars, encoding="utf-8")
    night = open_night(settings, recipe=str(path))
    build_panel(settings, night)
    for fold in plan_folds(settings, night):
        train_fold(settings, night, fold)
    verdict = judge_night(settings, night)
    models = NightArtifacts.find(settings, night).read("summary.json")["models"]
    if sides != "independent" and horizon % 2:
        assert models["ridge"]["test"]["ic"]["value"] > 0.2
    assert {name: row["traded"]["net"] for name, row in models.items() if row["traded"]["net"] > 0} == {}
    # Not even `paper`, which is the most that a lineage without quotes can become.
    assert verdict["state"] == "rejected"
