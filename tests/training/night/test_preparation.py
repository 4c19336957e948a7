"""Against what is a night's health judged, where a champion serves?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from features.monitoring.health import TrainingWindow
from storage.lake.lake import Lake
from tests.training.builders import settings_in
from tests.training.night.test_registry import FIRST
from training.night.artifacts import NightArtifacts
from training.night.preparation import champion_training_window, training_facts
from training.night.registry import append_events
from training.recipe import RECIPES, Recipe

DEMO = RECIPES["demo"]
BTC = "hyperliquid|perp|BTC"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[tuple[Path, Lake]]:
    settings = settings_in(tmp_path)
    with Lake.open(settings) as lake:
        yield settings.models_dir / "nights", lake


def night_of(nights: Path, name: str, recipe: Recipe = DEMO) -> NightArtifacts:
    night = NightArtifacts(nights / name)
    facts = {"night": name, "since_ns": 7, "instruments": [BTC], "feature_set": recipe.feature_set}
    night.write("night.json", facts | {"recipe": recipe.to_plain()})
    return night


def serve(lake: Lake, **inputs: Any) -> None:
    append_events(
        lake,
        [replace(FIRST, event="champion", inputs={"cutoff_ns": 50} | inputs)],
        batch_id="champion",
    )


def test_it_is_what_the_champion_learned_from(home: tuple[Path, Lake]) -> None:
    nights, lake = home
    night = night_of(nights, "demo-2")
    assert champion_training_window(night, lake) is None
    serve(lake, **training_facts(night_of(nights, "demo-1")))
    expected = TrainingWindow("mlp-demo-1", 7, 50, frozenset({BTC}))
    assert champion_training_window(night, lake) == expected
    (nights / "demo-1" / "night.json").unlink()
    assert champion_training_window(night, lake) == expected, (
        "the ledger says it, whether or not its night is here"
    )


@pytest.mark.parametrize("changed", [{"width": "5m"}, {"feature_set": "candles"}])
def test_a_champion_of_other_features_under_the_same_name_is_none(
    home: tuple[Path, Lake], changed: dict[str, Any]
) -> None:
    nights, lake = home
    serve(lake, **training_facts(night_of(nights, "demo-1", replace(DEMO, **changed))))
    assert champion_training_window(night_of(nights, "demo-2"), lake) is None


@pytest.mark.parametrize("is_here", [True, False])
def test_of_a_champion_that_the_ledger_says_too_little_of_its_night_is_asked(
    home: tuple[Path, Lake], is_here: bool
) -> None:
    nights, lake = home
    serve(lake)
    if is_here:
        night_of(nights, "demo-1")
    found = champion_training_window(night_of(nights, "demo-2"), lake)
    assert found == (TrainingWindow("mlp-demo-1", 7, 50, frozenset({BTC})) if is_here else None)
