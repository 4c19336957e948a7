"""The reference window of a night's drift: the bars that the champion was trained on."""

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


def test_it_is_the_training_window_of_the_champion(home: tuple[Path, Lake]) -> None:
    nights, lake = home
    night = night_of(nights, "demo-2")
    assert champion_training_window(night, lake) is None
    serve(lake, **training_facts(night_of(nights, "demo-1")))
    expected = TrainingWindow("mlp-demo-1", 7, 50, frozenset({BTC}))
    assert champion_training_window(night, lake) == expected
    (nights / "demo-1" / "night.json").unlink()
    assert champion_training_window(night, lake) == expected, (
        "the registry suffices, whether or not the night's folder exists"
    )


@pytest.mark.parametrize("changed", [{"width": "5m"}, {"feature_set": "candles"}])
def test_a_champion_with_another_feature_set_or_width_has_none(
    home: tuple[Path, Lake], changed: dict[str, Any]
) -> None:
    nights, lake = home
    serve(lake, **training_facts(night_of(nights, "demo-1", replace(DEMO, **changed))))
    assert champion_training_window(night_of(nights, "demo-2"), lake) is None


@pytest.mark.parametrize("is_here", [True, False])
def test_keys_missing_in_the_registry_come_from_the_champions_night(
    home: tuple[Path, Lake], is_here: bool
) -> None:
    nights, lake = home
    serve(lake)
    if is_here:
        night_of(nights, "demo-1")
    found = champion_training_window(night_of(nights, "demo-2"), lake)
    assert found == (TrainingWindow("mlp-demo-1", 7, 50, frozenset({BTC})) if is_here else None)
