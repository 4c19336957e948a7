"""docs/outside-models.md: its examples run in order on a small night."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from storage.settings import Settings
from tests.paths import ROOT

PAGE: Final = ROOT / "docs" / "outside-models.md"


def examples() -> list[str]:
    """Return the Python blocks of the page, in order."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.usefixtures("proven")
def test_the_examples_run(judged: tuple[Settings, str], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, night = judged
    shutil.copytree(settings.home, here / "var")
    monkeypatch.setenv("TICKWALK_TRAINING_DEVICE", "cpu")
    monkeypatch.setenv("TICKWALK_TRAINING_THREADS", "1")
    names: dict[str, Any] = {"recipe": str(here / "var" / "small.toml")}
    for example in examples():
        exec(compile(example, str(PAGE), "exec"), names)
    assert len(examples()) == 4
    assert names["night"].night == night
    assert len(names["rows"]) == len(names["test"]) > 100
    assert names["batches"].set_epoch(0) is None
    result = names["result"]
    assert result.outcome == "refused"
    assert result.report.exists()
    # Only one fold of two is predicted, so only it is judged.
    assert [fold.index for fold in result.folds()] == [0]
