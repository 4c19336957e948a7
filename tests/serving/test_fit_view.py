"""The view of a night's fits: figures, pace, lines, the table, and training curves."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from serving.cli.night_view import NightView
from serving.fit_view import FitWatch
from serving.training_curves import CURVES, CurveWriter
from storage.errors import SettingsError
from storage.settings.services import TrainingSettings
from training.models.trainer import EpochLog

LOG = EpochLog(0.5, 0.4, 0.45, 0.25, valid_ic=0.031, learning_rate=1e-3, rows=1_000)


def ticks(*seconds: float) -> Iterator[float]:
    yield from seconds


def test_pace_is_that_of_the_rows_between_recent_points() -> None:
    clock = ticks(10.0, 12.0, 14.0)
    watch = FitWatch(5, clock=lambda: next(clock))
    first, second, third = (watch.point("mlp+1", 1, LOG) for _ in range(3))
    assert math.isnan(first.rows_per_s)
    assert (second.rows_per_s, third.rows_per_s) == (500.0, 500.0)
    assert str(third) == (
        "training fold 2 of 5: mlp+1, epoch 0.5, loss 0.45000, IC +0.0310, 500 rows/s, best epoch 0.25"
    )
    assert ", - rows/s," in str(first)


def test_lines_are_rare_within_a_fit_and_complete_between_steps() -> None:
    written, now_s = io.StringIO(), 0.0
    view = NightView(Console(file=written, width=200), clock=lambda: now_s)
    with view.shown():
        view.step("building features")
        for now_s in range(25):
            view.fit(FitWatch(5).point("mlp", 0, LOG))
            view.step(f"training fold 1 of 5: mlp, epoch {now_s}")
        view.step("judging the challenger")
    assert written.getvalue().splitlines() == [
        "building features",
        *(f"training fold 1 of 5: mlp, epoch {n}" for n in (10, 20)),
        "judging the challenger",
    ]


def test_a_terminal_has_a_table_of_the_newest_fits_and_the_step_with_its_time_left() -> None:
    written = io.StringIO()
    console = Console(file=written, width=120, force_terminal=True, color_system=None)
    view = NightView(console)
    with view.shown():
        for fold in range(12):
            view.fit(FitWatch(12).point("lstm", fold, LOG))
        view.step("training fold 12 of 12: lstm; about 3 min left of 9 min")
    shown = written.getvalue()
    for text in ("valid loss", "IC", "rows/s", "+0.0310", "0.45000", "12 of 12", "about 3 min left of 9 min"):
        assert text in shown
    # Only the newest fits: the first frame of all twelve would need twelve rows.
    assert shown.rpartition("valid loss")[2].count("lstm ") <= 8


def test_curves_without_the_extra_name_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(SettingsError, match=r"tensorboardX is not installed.*tickwalk\[tensorboard\]"):
        CurveWriter(tmp_path)
    with pytest.raises(SettingsError, match=r"training\.curves is 'wandb'"):
        TrainingSettings(curves="wandb")


def test_curves_are_one_run_per_fit_and_leave_out_what_is_not_finite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Against a double of the library; the real one is an extra."""
    calls: list[Any] = []

    class Writer:
        def __init__(self, folder: str, *, purge_step: int) -> None:
            self.run = Path(folder).name
            calls.append(("open", self.run, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls.append((self.run, name, value, step))

        def flush(self) -> None: ...

        def close(self) -> None:
            calls.append(("close", self.run))

    module = ModuleType("tensorboardX")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    with CurveWriter(tmp_path) as curves:
        curves.write("mlp", 0, LOG)
        curves.write("mlp+1", 0, LOG)
        curves.write("mlp", 0, replace(LOG, epoch=0.75, train_loss=math.nan))
    opened = [call for call in calls if call[0] in ("open", "close")]
    assert opened == [
        ("open", "fold-00-mlp", 50),
        ("open", "fold-00-mlp+1", 50),
        ("close", "fold-00-mlp"),
        ("close", "fold-00-mlp+1"),
    ]
    scalars = [call for call in calls if call[0] == "fold-00-mlp"]
    assert scalars == [
        *(("fold-00-mlp", name, getattr(LOG, name), 50) for name in CURVES),
        *(("fold-00-mlp", name, getattr(LOG, name), 75) for name in CURVES[1:]),
    ]
