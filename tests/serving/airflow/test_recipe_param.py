"""The form of a night proposes the known recipes, and the DAG's page says where none can be chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.airflow.recipe_param import recipe_paragraph, recipe_param
from serving.recipe_check import check_recipe
from serving.recipe_note import read_recipe_note, write_recipe_note
from storage.settings import Settings
from storage.settings.services import TrainingSettings
from tests.dags.small_night import furnish
from training.recipe import RECIPES, recipe_names
from training.recipe_list import BUILT_IN, listed_recipes


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "airflow").mkdir()
    return Settings(home=tmp_path)


def test_the_names_are_those_of_the_recipes() -> None:
    assert tuple(RECIPES) == BUILT_IN


def test_a_projects_recipes_are_proposed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = tmp_path / "tickwalk_project" / "recipes"
    recipes.mkdir(parents=True)
    (recipes.parent / "__init__.py").touch()
    (recipes / "slow.toml").write_text('base = "candles"\nname = "slow"\n')
    monkeypatch.setenv("TICKWALK_PROJECT", str(tmp_path))
    assert listed_recipes() == (*BUILT_IN, "slow") == tuple(recipe_names())
    monkeypatch.setenv("TICKWALK_PROJECT", str(tmp_path / "nowhere"))
    assert listed_recipes() == BUILT_IN, "a broken project does not take away the form"


def test_the_form_proposes_the_recipes_and_accepts_a_file(settings: Settings) -> None:
    field = recipe_param(settings)
    assert field.value is None
    assert field.schema["examples"] == list(BUILT_IN)
    for value in (None, "candles", "my/recipe.toml"):
        field.resolve(value)


def test_a_setting_is_named(settings: Settings, tmp_path: Path) -> None:
    chosen = Settings(home=tmp_path, training=TrainingSettings(recipe="candles"))
    assert "candles (setting training.recipe)" in recipe_param(chosen).schema["description_md"]
    assert "`candles` (setting `training.recipe`)" in recipe_paragraph(chosen)


def test_a_home_whose_data_fit_no_recipe_says_so_on_the_page(settings: Settings) -> None:
    furnish(settings)  # three days, too short for every built-in recipe
    check_recipe(settings)
    page = recipe_paragraph(settings)
    assert "No recipe was chosen" in page
    assert "candles lacks" in page
    assert "tickwalk recipes check" in page
    assert "a night without a recipe fails" in recipe_param(settings).schema["description_md"]


def test_the_recipe_that_fits_is_named(settings: Settings) -> None:
    write_recipe_note(settings, recipe="candles", text="only this one fits", now_ns=0)
    first = recipe_paragraph(settings)
    assert "at the last check that was `candles`" in first
    write_recipe_note(settings, recipe="candles", text="only this one fits", now_ns=10**18)
    assert recipe_paragraph(settings) == first, "or every night made a new version of the DAG"


def test_a_home_without_airflow_gets_no_note(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "none")
    write_recipe_note(settings, recipe="candles", text="")
    assert read_recipe_note(settings) is None
    assert not (tmp_path / "none").exists()
