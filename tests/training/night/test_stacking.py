"""Stacked networks in a night: chosen when it opens, part of its identity, and the same whatever trains together."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from storage.settings import Settings
from tests.training.builders import fill_lake, settings_in, walk
from tests.training.night.test_fit_store import RECIPE, STEPS
from tests.training.night.test_steps import tree
from training.models.checkpoint import ONE_BY_ONE
from training.models.device import prepare_device
from training.models.trainer import EpochLog
from training.night import stacking
from training.night.artifacts import STACKS, NightArtifacts
from training.night.stacking import LANES, LEAST_GAIN, choose_stacking, measure_gain
from training.night.steps import build_panel, open_night, plan_folds, train_fold, train_folds
from training.recipe import RECIPES

CHANGES = {
    "name": 'name = "stacked"',
    "challengers": 'challengers = ["mlp", "lstm"]',
    "seeds": "seeds = 2",
    "epochs": "epochs = 1",
}


class InterruptionError(Exception):
    """Ends a training on the way."""


def night_in(settings: Settings, *, at: int | None = None) -> NightArtifacts:
    """Open a night of two folds, and do all before its training."""
    lines = [CHANGES.get(line.partition(" ")[0], line) for line in RECIPE.splitlines()]
    recipe = settings.home / "stacked.toml"
    recipe.write_text("\n".join(lines), encoding="utf-8")
    name = open_night(settings, recipe=str(recipe), at=at)
    build_panel(settings, name)
    plan_folds(settings, name)
    return NightArtifacts.find(settings, name)


def test_fits_are_equal_whether_folds_train_together_apart_or_after_an_interruption(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    settings = replace(settings, training=replace(settings.training, stacking="on", runner="sequential"))
    fill_lake(settings, walk(instruments=2, steps=STEPS, seed=3, signal=0.8, volatility=5e-3))
    night = night_in(settings)
    name, snapshot = night.path.name, night.facts["snapshot"]
    assert night.facts["stacking"] == {"mlp": LANES}
    train_folds(settings, name)
    assert len(night.read(STACKS)) == 4
    together = tree(night.path)
    for member, expected in (("mlp+1", f"{LANES} lanes"), ("lstm", ONE_BY_ONE), ("ridge", ONE_BY_ONE)):
        stamp = json.loads(together[f"fold-01/{member}/manifest.json"])["stamp"]
        assert stamp["stacking"] == expected

    def interrupt(model: str, fold: int, log: EpochLog) -> None:
        if (model, fold) == ("mlp", 1) and log.epoch >= 0.5:
            raise InterruptionError

    shutil.rmtree(settings.models_dir)
    assert night_in(settings, at=snapshot).path == night.path
    with pytest.raises(InterruptionError):
        train_fold(settings, name, 1, on_epoch=interrupt)
    for fold in (1, 0):
        train_fold(settings, name, fold)
    apart = tree(night.path)
    assert sorted(apart) == sorted(together)
    assert [name for name in apart if apart[name] != together[name]] == []


def test_the_choice_is_measured_once_and_depends_on_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, device = settings_in(tmp_path), prepare_device("cpu", threads=1)
    settings.models_dir.mkdir(parents=True)
    gains, measured = {"mlp": LEAST_GAIN, "lstm": LEAST_GAIN - 0.1}, []

    def measure(name: str, *_: object, **__: object) -> float:
        measured.append(name)
        return gains[name]

    monkeypatch.setattr(stacking, "measure_gain", measure)

    def choose(mode: str, recipe: str = "candles", *, seeds: int = 2) -> dict[str, int]:
        changed = replace(settings, training=replace(settings.training, stacking=mode))
        return choose_stacking(changed, replace(RECIPES[recipe], seeds=seeds, least_seeds=0), device)

    assert choose("off") == {}
    assert choose("auto", seeds=1) == {}, "five fits of each are too few"
    assert measured == []
    assert choose("auto") == {"mlp": LANES}
    assert choose("on") == {"mlp": LANES, "lstm": LANES}
    assert measured == ["mlp", "lstm"]
    choose("auto", seeds=3)
    assert len(measured) == 4, "more fits fill the lanes of a stack better"
    (settings.models_dir / "stacking.json").write_text("{", encoding="utf-8")
    assert choose("auto") == {"mlp": LANES}


def test_a_network_that_cannot_be_stacked_gains_nothing() -> None:
    device = prepare_device("cpu", threads=1)
    rows = replace(RECIPES["candles"], window_bars=1, fit=replace(RECIPES["candles"].fit, batch=16))
    assert measure_gain("mlp", rows, device, fits=LANES) > 0
    assert measure_gain("lstm", rows, device, fits=LANES) == 0
