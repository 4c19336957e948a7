"""`tickwalk compare` on two models of a finished night."""

from __future__ import annotations

import json

import pytest

from serving import cli
from storage.errors import GateError
from storage.settings import Settings
from training.night.artifacts import NightArtifacts
from training.night.comparison import compare_models


def test_models_of_one_night_are_compared_on_all_of_its_rows(
    judged: tuple[Settings, str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings, night = judged
    folder = NightArtifacts.find(settings, night)
    names = [name for name in folder.recipe.models if name not in ("zero", "momentum")][:2]
    a, b = (f"{night}:{name}" for name in names)
    models = folder.read("summary.json")["models"]
    found = compare_models(settings, a, b)
    assert (found.only_a, found.only_b, found.rows) == (0, 0, models[names[0]]["test"]["rows"])
    first, second = (models[name]["test"]["ic"]["value"] for name in names)
    assert found.ic.value == pytest.approx(second - first, abs=1e-9)
    assert compare_models(settings, b, a).net.value == pytest.approx(-found.net.value)
    cli.main(["--home", str(settings.home), "compare", a, b, "--format", "json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["figure"].split()[0] for row in rows] == ["IC", "net"]
    assert rows[0]["b_less_a"] == pytest.approx(found.ic.value, abs=1e-6)
    cli.main(["--home", str(settings.home), "compare", a, b])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"A {a} B {b}" in shown
    assert f"{found.rows:,} test rows of both" in shown


def test_a_model_that_is_not_there_is_refused_with_those_that_are(judged: tuple[Settings, str]) -> None:
    settings, night = judged
    with pytest.raises(GateError, match="no model 'lstm2'") as caught:
        compare_models(settings, f"{night}:lstm2", night)
    assert "ridge" in caught.value.hint
