"""The recipe of a night that names none: the only one that fits the lake, or an error that says what each lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.errors import SettingsError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.training.builders import START_NS, fill_lake, settings_in, walk
from training.night.recipe_choice import RecipeFit, check_recipes, choose_recipe, forecast_folds
from training.night.steps import open_night
from training.recipe import RECIPES, get_recipe

WEEK_BARS = 7 * 288  # of five minutes


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TICKWALK_PROJECT", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def six_weeks(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Six weeks of bars with prints and without quotes."""
    return lake_of(settings_in(tmp_path_factory.mktemp("weeks")), 6 * WEEK_BARS)


def lake_of(settings: Settings, steps: int, *, width: str = "5m") -> Settings:
    fill_lake(settings, walk(instruments=1, steps=steps, seed=1), width=width)
    return settings


def fits_of(settings: Settings, *names: str) -> dict[str, RecipeFit]:
    with Lake.open(settings, read_only=True) as lake:
        return {fit.recipe: fit for fit in check_recipes(settings, lake, names or RECIPES)}


def test_the_only_recipe_that_fits_is_chosen_with_the_reason(here: Path, six_weeks: Settings) -> None:
    settings = six_weeks
    with Lake.open(settings, read_only=True) as lake:
        chosen = choose_recipe(settings, lake)
    assert chosen.recipe == "candles"
    assert chosen.reason.startswith(
        "of 3 recipes only this one fits the lake: 5m bars of 1 instruments at hyperliquid over 42.0 days from 2025-02"
    )
    night = open_night(settings)
    assert night.startswith("candles-")
    assert night == open_night(settings, recipe="candles")
    # A project's recipe fits as well: then a person has to say which.
    recipes = here / "tickwalk_project" / "recipes"
    recipes.mkdir(parents=True)
    (recipes.parent / "__init__.py").touch()
    (recipes / "slow.toml").write_text('base = "candles"\nstride = 6\n', encoding="utf-8")
    (recipes / "broken.toml").write_text('base = "candles"\nstrid = 6\n', encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        open_night(settings)
    text = str(caught.value)
    assert "2 recipes fit the lake, candles, slow, and none was chosen" in text
    assert text.count("fits: 5m bars of 1 instruments at hyperliquid over 42.0 days") == 2
    assert "broken lacks a valid file: recipe key 'strid'" in text
    assert "tickwalk nightly --recipe candles, or set training.recipe" in text
    named = replace(settings, training=replace(settings.training, recipe="slow"))
    with Lake.open(named, read_only=True) as lake:
        assert choose_recipe(named, lake).reason == "setting training.recipe names it"
    assert open_night(named).startswith("slow-")


def test_without_a_fitting_recipe_each_says_what_it_lacks(here: Path) -> None:
    settings = lake_of(settings_in(here / "home"), 3 * 1440, width="1m")
    fits = fits_of(settings)
    assert not any(fit.is_fitting for fit in fits.values())
    assert fits["candles"].missing == ("5m bars",)
    assert fits["gaiaex-mid"].missing == ("1m bars of gaiaex from live or venue_replay or recent",)
    lacks = fits["hyperliquid-1m"].missing
    assert lacks[0].startswith(
        "columns that its features read: ask, ask_size, bid, bid_size, buy_volume, context"
    )
    assert lacks[1].startswith("rows of books for its features depth_imbalance_slow, book_depth_slow")
    assert "too few for one fold of 4 days (2 train, 1 valid, 1 test)" in lacks[2]
    with pytest.raises(
        SettingsError, match=r"(?s)no recipe fits the lake:.*candles lacks .*gaiaex-mid lacks"
    ):
        open_night(settings)


def test_the_range_of_a_night_counts(here: Path, six_weeks: Settings) -> None:
    settings = six_weeks
    assert open_night(settings, until="2025-04-01").startswith("candles-")
    with pytest.raises(SettingsError, match=r"candles lacks history: .* too few for one fold of 4 weeks"):
        open_night(settings, until="2025-03-05")


def test_demo_is_never_chosen(here: Path) -> None:
    """It is made for the simulated market, and would fit every recording."""
    settings = settings_in(here / "home")
    settings.ensure_home()
    with Lake.open(settings) as lake, pytest.raises(SettingsError) as caught:
        choose_recipe(settings, lake)
    assert "demo" not in str(caught.value)
    assert "there is none" in str(caught.value)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_forecast_folds_are_those_of_the_labelled_range(name: str) -> None:
    """A night without holes has the folds that were forecast from its first and last bar."""
    recipe = get_recipe(name)
    unit_ns = recipe.folds.unit_ns
    units = recipe.folds.train_units + recipe.folds.valid_units + 2 * recipe.folds.test_units + 1
    folds = forecast_folds(START_NS, START_NS + units * unit_ns, recipe, grace_ns=2 * 10**9)
    assert folds
    assert all(fold.train.start_ns > START_NS for fold in folds)
    ends = np.array([fold.test.stop_ns for fold in folds])
    assert (np.diff(ends) == recipe.folds.test_ns).all()
    assert ends[-1] <= START_NS + units * unit_ns
