"""Commands `recipes list|show|check`, and the generated reference of all keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from serving import cli
from storage.code_version import ROOT
from training.recipe import RECIPES, get_recipe
from training.recipe_docs import describe_recipes

pytestmark = pytest.mark.usefixtures("here")


def run(*words: str) -> int:
    try:
        cli.main(["recipes", *words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_built_in_recipes_and_those_of_the_project_are_listed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = here / "tickwalk_project"
    (project / "recipes").mkdir(parents=True)
    (project / "__init__.py").touch()
    (project / "recipes" / "slow.toml").write_text('base = "candles"\n[label]\nhorizon_bars = 48\n')
    assert run("list", "--format", "json") == 0
    rows = {row["recipe"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(rows) == {*RECIPES, "slow"}
    assert rows["demo"]["source"] == "built-in"
    assert rows["slow"]["source"].endswith("slow.toml")
    assert (rows["slow"]["horizon_bars"], rows["candles"]["horizon_bars"]) == (48, 12)


@pytest.mark.parametrize("name", RECIPES)
def test_what_show_prints_is_a_file_that_gives_the_same_recipe(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run("show", name) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    file = here / "copy.toml"
    file.write_text(text.replace(f'name = "{name}"', 'name = "copy"'), encoding="utf-8")
    assert run("check", str(file)) == 0
    assert "valid" in capsys.readouterr().out
    assert get_recipe(str(file)) == replace(RECIPES[name], name="copy")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('base = "candles"\nname = "a"\n[label]\nhorizon = 3\n', "horizon_bars"),
        ('base = "candles"\nname = "a"\nstrides = 3\n', "stride"),
        ('base = "candels"\nname = "a"\n', "use candles"),
        ('base = "candles"\nname = "a"\nstride = "three"\n', "stride"),
        ('base = "candles"\nname = "a"\nstride = 0\n', "start at 1"),
        ("stride =", "is not TOML"),
    ],
)
def test_a_mistake_is_refused_with_what_is_right(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    file = here / "mine.toml"
    file.write_text(text, encoding="utf-8")
    assert run("check", str(file)) != 0
    found = " ".join(capsys.readouterr().err.split())
    assert said in found
    assert "Traceback" not in found


def test_the_page_is_current() -> None:
    page = ROOT / "docs" / "recipes.md"
    assert page.read_text(encoding="utf-8") == describe_recipes(), (
        "run: python -m training.recipe_docs > docs/recipes.md"
    )
