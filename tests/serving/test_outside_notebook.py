"""docs/notebooks/outside_model.ipynb: a model that is trained with Lightning is judged.

Lightning is no dependency, so the test skips where it is missing, and names it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import nbformat
import pytest

from storage.settings import Settings
from tests.paths import ROOT
from tests.tickwalk.test_notebook import Cells

NOTEBOOK: Final = ROOT / "docs" / "notebooks" / "outside_model.ipynb"


def sources() -> list[str]:
    return [cell.source for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]


def test_the_notebook_has_at_most_40_lines_of_code() -> None:
    lines = [line for source in sources() for line in source.splitlines() if line.strip()]
    assert 20 < len(lines) <= 40


def test_a_model_trained_with_lightning_is_judged(
    judged: tuple[Settings, str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(
        "lightning", reason="lightning is not installed; pip install lightning==2.6.6 beside tickwalk"
    )
    home = here / "home"
    shutil.copytree(judged[0].home, home)
    recipes = here / "tickwalk_project" / "recipes"
    recipes.mkdir(parents=True)
    (recipes.parent / "__init__.py").touch()
    shutil.copy(home / "small.toml", recipes)
    for name, value in (("HOME", str(home)), ("TRAINING_DEVICE", "cpu"), ("TRAINING_THREADS", "1")):
        monkeypatch.setenv(f"TICKWALK_{name}", value)
    cells = Cells()
    texts = [cells.show(source) for source in sources()]
    verdict, *models = texts[-2].splitlines()
    assert verdict.startswith("refused - too little evidence")
    assert {line.split()[0] for line in models} == {"zero", "momentum", "ridge", "outside-mlp"}
    assert "judge-outside-mlp-" in texts[-1]
