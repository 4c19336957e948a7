"""The bridge to forecastguard: short forms with a stand-in of its interface, and the tool itself in the drill."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from features.frame_features import FrameFeatures
from features.panel.panel import Panel
from serving.feature_jobs import outside_audit
from serving.feature_jobs.outside_audit import (
    LEAST_PYTHON,
    audit,
    find_python,
    prepare_environment,
)
from storage.errors import LeakError, SettingsError, TickwalkError
from tests.features.panels import random_panel

PANEL = random_panel(2, 420, seed=3)
STAND_IN = """
import pandas as pd
from types import SimpleNamespace as ForecastSpec


class Report:
    def __init__(self, results, calls):
        self.results, self.calls = results, calls

    def model_dump(self, mode):
        return {"results": self.results, "runtime_calls": self.calls}

    def exit_code(self, strict):
        return int(any(item["status"] != "pass" for item in self.results))


def run_checks(spec, *, frame, feature_fn):
    assert spec.id_col == "instrument" and spec.horizon > 0
    before, calls, found = feature_fn(frame.copy()), 1, []
    for cutoff in spec.cutoffs:
        late = frame[spec.time_col] > pd.Timestamp(cutoff)
        assert 0 < late.sum() < len(frame)
        changed = frame.copy()
        for name in changed.columns:
            if name not in (spec.id_col, spec.time_col):
                changed[name] = changed[name].mask(late)
        after, calls = feature_fn(changed), calls + 1
        for name in before.columns[2:]:
            if not before[name][~late].equals(after[name][~late]):
                where = {"code": "FG-LEAK-001", "message": f"feature {name!r} changes", "location": f"{name}@{cutoff}"}
                found.append(where)
    result = {"name": "Runtime leakage", "status": "fail" if found else "pass", "summary": "", "detail": None}
    return Report([result | {"violations": found}], calls)
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter whose `forecastguard` is the stand-in; it finds numpy and pandas where we do."""
    import subprocess

    folder = tmp_path_factory.mktemp("stand-in")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "forecastguard.py").write_text(STAND_IN, encoding="utf-8")
    (packages / "shared.pth").write_text(f"{Path(np.__file__).parent.parent}\n", encoding="utf-8")
    return folder / "bin" / "python"


def ahead(frame: Any) -> Any:
    """Features of which one reads the next bar; it is torch code behind a frame."""
    found = FrameFeatures("candles", width="1m")(frame)
    by_instrument = found.groupby("instrument")["log_return_1"]
    parts = [torch.from_numpy(part.to_numpy(copy=True)).roll(-1).numpy() for _, part in by_instrument]
    return found.assign(log_return_1=np.concatenate(parts))


def test_a_sound_set_passes_and_a_leak_is_named(stand_in: Path, tmp_path: Path) -> None:
    report = audit(FrameFeatures("candles", width="1m"), PANEL, "candles", python=stand_in, folder=tmp_path)
    assert (report.calls, report.features, len(report.cutoffs)) == (4, 29, 3)
    assert report.rows == 2 * (151 + 240)
    assert "no look-ahead in 29 features of 782 bars" in report.lines()[0]
    with pytest.raises(LeakError, match="found: feature 'log_return_1' changes") as caught:
        audit(ahead, PANEL, "candles", python=stand_in, folder=tmp_path)
    assert caught.value.facts["feature"] == "log_return_1"
    assert list(tmp_path.iterdir()) == [], "exchanged frames are removed"


def test_errors_of_the_function_and_of_the_bridge_are_told_apart(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> Any:
        raise SettingsError("no such thing")

    with pytest.raises(SettingsError, match="no such thing"):
        audit(broken, PANEL, "candles", python=stand_in, folder=tmp_path)
    monkeypatch.setattr(outside_audit, "write_frame", lambda path, frame: Path(path).write_bytes(b""))
    with pytest.raises(
        TickwalkError, match=r"the bridge to forecastguard==\S+ ended without a report: \w+Error"
    ):
        audit(FrameFeatures("candles", width="1m"), PANEL, "candles", python=stand_in, folder=tmp_path)
    short = PANEL.steps(0, 11)
    with pytest.raises(
        SettingsError, match="11 steps are too few to audit features that reach 151 bars back"
    ):
        audit(FrameFeatures("candles", width="1m"), short, "candles", python=stand_in, folder=tmp_path)


def test_a_machine_without_python_3_12_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(outside_audit, "_candidates", lambda: iter([tmp_path / "no-python"]))
    with pytest.raises(SettingsError, match=r"needs Python 3\.12 or newer, and none was found on PATH"):
        find_python()
    if sys.version_info[:2] < LEAST_PYTHON:
        with pytest.raises(SettingsError, match=r"is no interpreter of Python 3\.12 or newer"):
            find_python(Path(sys.executable))


def test_an_environment_that_cannot_be_made_is_told_and_leaves_no_mark(tmp_path: Path) -> None:
    wrong = tmp_path / "python"
    wrong.write_text("#!/bin/sh\necho no venv here >&2\nexit 1\n", encoding="utf-8")
    wrong.chmod(0o755)
    with pytest.raises(SettingsError, match=r"cannot be made in .*: no venv here .*with a network"):
        prepare_environment(tmp_path / "auditors", wrong)
    assert list((tmp_path / "auditors").rglob("installed")) == []


@pytest.mark.drill
def test_forecastguard_itself_passes_sound_sets_and_catches_planted_leaks(tmp_path: Path) -> None:
    try:
        python = prepare_environment(tmp_path / "auditors", find_python())
    except SettingsError as error:
        pytest.skip(str(error))
    panel: Panel = random_panel(5, 420, seed=3)
    for name in ("candles", "live"):
        features_of = FrameFeatures(name, width="1m")
        report = audit(features_of, panel, name, python=python, folder=tmp_path / "exchange")
        assert {status for _, status, _ in report.checks} == {"pass"}
        assert report.calls == 15

    def of_sample(frame: Any) -> Any:
        found = FrameFeatures("candles", width="1m")(frame)
        return found.assign(momentum_30=found["momentum_30"] - found["momentum_30"].mean())

    for leaky, feature in ((ahead, "log_return_1"), (of_sample, "momentum_30")):
        with pytest.raises(LeakError, match=f"feature '{feature}' changes before the cutoff") as caught:
            audit(leaky, panel, "candles", python=python, folder=tmp_path / "exchange")
        assert caught.value.facts["feature"] == feature
