"""What lies after the cut of a night, or before the bars that it needs, changes none of its bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.clock import NS, ManualTime, iso
from storage.settings import Settings
from tests.training.builders import MINUTE_NS, START_NS, fill_lake, settings_in, walk
from training.night.artifacts import NightArtifacts
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_fold

RECIPE = """
base = "demo"
name = "cut"
feature_set = "candles"
window_bars = 4
stride = 2
seeds = 1
controls = ["ridge"]
challengers = ["lightgbm", "mlp"]
[folds]
n_folds = 2
unit = "hour"
test_units = 3
valid_units = 2
train_units = 3
embargo_bars = 6
[fit]
epochs = 2
batch = 128
[costs]
spread_bars = 60
"""
STEPS, LATER = 1_100, 400
CUT_NS = START_NS + STEPS * MINUTE_NS
PRICES = walk(instruments=2, steps=STEPS, seed=3, signal=0.5, volatility=5e-3)


def garbage(rows: int, seed: int) -> np.ndarray:
    """Return (S, T) log prices after the cut, of moves ten times as large."""
    moves = np.random.default_rng(seed).standard_normal((rows, LATER)) * 0.05
    return PRICES[:1, -1:] + np.cumsum(moves, axis=1)


def home_with(home: Path, log_price: np.ndarray, **more: Any) -> Settings:
    settings = settings_in(home)
    fill_lake(settings, log_price, **more)
    (home / "cut.toml").write_text(RECIPE, encoding="utf-8")
    return settings


def night_of(settings: Settings, *, folds: int | None = None, **bounds: str) -> NightArtifacts:
    """Run a night; with a number of folds, only these are trained, and nothing is judged."""
    name = open_night(settings, recipe=str(settings.home / "cut.toml"), **bounds)
    build_panel(settings, name)
    planned = plan_folds(settings, name)
    for fold in planned[:folds]:
        train_fold(settings, name, fold)
    if folds is None:
        judge_night(settings, name, clock=ManualTime(1_800_000_000 * NS))
    return NightArtifacts.find(settings, name)


def tree(folder: NightArtifacts) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder.path)): path.read_bytes()
        for path in sorted(folder.path.rglob("*"))
        if path.is_file() and "timings" not in path.parts
    }


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> NightArtifacts:
    """A night on a lake that ends at the cut."""
    return night_of(home_with(tmp_path_factory.mktemp("cut"), PRICES))


@pytest.mark.drill
def test_garbage_after_the_cut_changes_no_bit_of_a_night_that_ends_there(
    cut: NightArtifacts, tmp_path: Path
) -> None:
    settings = home_with(tmp_path, np.concatenate([PRICES, garbage(2, 9)], axis=1))
    night = night_of(settings, until=iso(CUT_NS))
    assert night.path.name == cut.path.name
    here, there = tree(night), tree(cut)
    assert here.keys() == there.keys()
    # The lakes have other snapshots, of which neither bits nor ids depend.
    assert [name for name in here if without_snapshot(here[name]) != without_snapshot(there[name])] == []


def without_snapshot(content: bytes) -> bytes:
    """Return a file without the number of its lake's snapshot."""
    try:
        value = json.loads(content)
    except ValueError:
        return content
    return json.dumps(_pruned(value), sort_keys=True).encode()


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pruned(item) for key, item in value.items() if key != "snapshot"}
    return [_pruned(item) for item in value] if isinstance(value, list) else value


@pytest.mark.drill
def test_an_open_night_with_garbage_and_a_late_listing_has_the_folds_of_the_cut(
    cut: NightArtifacts, tmp_path: Path
) -> None:
    """The same hours are folds of both nights where both test them: equal fits, normalisers and predictions."""
    later = np.concatenate([PRICES, garbage(2, 9)], axis=1)
    newcomer = np.concatenate([np.full((1, STEPS), 4.0), garbage(1, 5)], axis=1)
    settings = home_with(tmp_path, np.concatenate([later, newcomer]), but={2: range(STEPS)})
    recipe = settings.home / "cut.toml"
    recipe.write_text(RECIPE.replace("n_folds = 2", "n_folds = 4"), encoding="utf-8")
    night = night_of(settings)
    assert night.facts["instruments"] == ["hyperliquid|perp|C0", "hyperliquid|perp|C1", "hyperliquid|perp|C2"]
    mine, theirs = (
        {tuple(entry["test"]): entry for entry in folder.read("folds.json")["folds"]}
        for folder in (night, cut)
    )
    shared = mine.keys() & theirs.keys()
    assert len(shared) == 2
    for test in shared:
        one, other = mine[test], theirs[test]
        for part in ("train", "valid", "test", "embargo_ns", "rows", "leaks"):
            assert one[part] == other[part], part
        for model in ("ridge", "lightgbm", "mlp"):
            ours, its = night.model_path(one["index"], model), cut.model_path(other["index"], model)
            manifests = [
                json.loads((folder.path / path / "manifest.json").read_bytes())
                for folder, path in ((night, ours), (cut, its))
            ]
            assert manifests[0]["normaliser"] == manifests[1]["normaliser"]
            assert manifests[0]["files"]["weights"] == manifests[1]["files"]["weights"]
            found, expected = night.read_predictions(ours), cut.read_predictions(its)
            assert np.array_equal(found.prediction, expected.prediction)
            assert np.array_equal(found.label, expected.label, equal_nan=True)
    # What the path earned in the hours of both does not depend on what came later.
    earned = [
        dict(
            zip(
                folder.read("summary.json")["path"]["periods"]["start_ns"],
                folder.read("summary.json")["path"]["periods"]["net"],
                strict=True,
            )
        )
        for folder in (night, cut)
    ]
    both = [start for start in earned[0] if start in earned[1]]
    assert len(both) >= 4
    # In the first hours a night without earlier folds chooses ridge; both choose it here.
    assert [earned[0][start] for start in both] == [earned[1][start] for start in both]


@pytest.mark.drill
def test_a_cut_at_the_start_changes_nothing_that_its_folds_read(tmp_path: Path) -> None:
    """Bars before the first train window and its lookback are not missed."""
    nights = []
    for name, dropped in (("whole", 0), ("cut", 40)):
        settings = home_with(tmp_path / name, PRICES, but=dict.fromkeys(range(2), range(dropped)))
        recipe = settings.home / "cut.toml"
        recipe.write_text(RECIPE.replace("n_folds = 2", 'n_folds = 1\nscheme = "rolling"'), encoding="utf-8")
        nights.append(night_of(settings))
    whole, night = nights
    [fold] = whole.read("folds.json")["folds"]
    # The lookback is 151 bars.
    assert fold["train"][0] > START_NS + (40 + 151) * MINUTE_NS
    assert night.facts["since_ns"] == START_NS + 40 * MINUTE_NS
    assert night.read("folds.json")["folds"] == [fold]
    for model in ("ridge", "lightgbm", "mlp"):
        ours, its = (folder.path / folder.model_path(0, model) for folder in nights)
        for file in ("metrics.json", "predictions.safetensors", "validation.safetensors"):
            assert (ours / file).read_bytes() == (its / file).read_bytes(), file
        weights = [
            json.loads((path / "manifest.json").read_bytes())["files"]["weights"] for path in (ours, its)
        ]
        assert weights[0] == weights[1]
    verdicts = [folder.read("verdict.json") for folder in nights]
    for verdict in verdicts:
        verdict.pop("version")  # the refit reads every labelled row, and so those before the cut
    assert verdicts[0] == verdicts[1]
    paths = [folder.read("summary.json")["path"] for folder in nights]
    assert paths[0] == paths[1]
