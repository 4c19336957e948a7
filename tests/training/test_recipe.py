"""Recipes: the built-in ones, and those of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from storage.errors import SettingsError
from tests.paths import ROOT
from training.models.controls import BASELINES
from training.models.networks import NETWORKS
from training.recipe import RECIPES, get_recipe, recipe_from_plain


def file_of(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_round_trips_through_json(name: str) -> None:
    recipe = get_recipe(name)
    assert recipe_from_plain(json.loads(json.dumps(recipe.to_plain()))) == recipe
    assert recipe.models == ("zero", "momentum", "ridge", "lightgbm", "mlp", "lstm")
    assert recipe.position.hold_bars == recipe.label.horizon_bars
    assert recipe.folds.embargo_bars >= recipe.label.horizon_bars


def test_only_challengers_have_further_seeds() -> None:
    recipe = get_recipe("demo")
    assert recipe.seeds == 2
    assert recipe.model_seeds[6:] == (("lightgbm", 1), ("mlp", 1), ("lstm", 1))


def test_file_changes_only_its_own_keys(tmp_path: Path) -> None:
    text = 'base = "candles"\nname = "long"\nstride = 6\n[label]\nhorizon_bars = 24\n'
    recipe = get_recipe(file_of(tmp_path, text))
    base = RECIPES["candles"]
    assert (recipe.name, recipe.stride, recipe.label.horizon_bars) == ("long", 6, 24)
    assert recipe.label.volatility_bars == base.label.volatility_bars
    assert recipe.folds == base.folds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"', "names no base"),
        ('base = "candles"\nstride = 2', "has the name of its base"),
        (
            'base = "candles"\nname = "x"\nstrid = 2',
            "recipe key 'strid' .* does not exist .*nearest is stride",
        ),
        ('base = "candles"\nname = "x"\n[label]\nhorizon = 2', "key 'horizon' .*nearest is horizon_bars"),
        ('base = "candles"\nname = "x"\nstride = "a"', "does not fit: Expected `int`"),
        ('base = "candles"\nname = "x"\nchallengers = ["gru"]', "no model is called 'gru'"),
        (
            'base = "candles"\nname = "x"\nchallengers = ["ridge"]',
            "a challenger must be a model that can be refitted",
        ),
        ('base = "candles"\nname = "x"\ncontrols = ["mlp"]', "a control must be a baseline"),
        ('base = "candles"\nname = "x"\ncontrols = []', "needs at least one control"),
        ('base = "candles"\nname = "x"\nfeature_set = "liev"', "feature set 'liev' does not exist"),
        ('base = "candles"\nname = "x"\nseeds = 0', "seeds start at 1"),
        ("base = ", "is not TOML"),
    ],
)
def test_invalid_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        get_recipe(file_of(tmp_path, text))


def test_unknown_recipe_is_refused_with_the_names() -> None:
    with pytest.raises(
        SettingsError,
        match=r"recipe 'candels' does not exist; there are: demo, candles, hyperliquid-1m, gaiaex-mid \(use candles,",
    ):
        get_recipe("candels")
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        get_recipe("nowhere.toml")


def test_recipes_of_the_documentation_compare_every_model() -> None:
    paths = sorted((ROOT / "docs" / "examples").glob("*.toml"))
    assert len(paths) == 3
    for path in paths:
        recipe = get_recipe(str(path))
        assert recipe.name == path.stem
        assert set(recipe.models) == {*BASELINES, *NETWORKS}
