"""The schedule of the nights: the time that one may take, its days, and the time left while it runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from serving import nightly
from serving.nightly import NightProgress, open_scheduled_night
from serving.schedule import night_until, nightly_interval_s
from storage.clock import parse_time_ns
from storage.errors import SettingsError
from storage.settings import Settings
from storage.settings.services import AirflowSettings
from training.night.artifacts import NightArtifacts
from training.night.time_budget import ESTIMATE


@pytest.mark.parametrize(
    ("schedule", "at", "hours"),
    [
        ("20 0 * * *", "2026-11-23T00:21", 24),
        ("20 0 * * *", "2026-11-23T23:59", 24),
        ("20 0,12 * * *", "2026-11-23T13:00", 12),
        ("0 3 * * 1", "2026-11-25T00:00", 7 * 24),
        ("0 3 * * 1-5", "2026-11-28T00:00", 3 * 24),
        ("", "2026-11-23T00:21", math.inf),
    ],
)
def test_a_night_has_the_time_from_its_start_to_that_of_the_next(
    schedule: str, at: str, hours: float
) -> None:
    assert nightly_interval_s(schedule, parse_time_ns(at)) == hours * 3_600


@pytest.mark.parametrize(
    ("schedule", "day", "until"),
    [
        ("20 0 * * *", "2026-11-22", "2026-11-23"),
        ("20 0,12 * * *", "2026-11-22", "2026-11-23"),
        ("20 0 * * 1", "2026-11-23", "2026-11-30"),
        ("20 0 1 * *", "2026-12-01", "2027-01-01"),
        # A day of a run by hand, on which no night starts.
        ("20 0 * * 1", "2026-11-25", "2026-11-26"),
    ],
)
def test_the_bars_of_a_night_end_where_the_day_of_its_start_begins(
    schedule: str, day: str, until: str
) -> None:
    assert night_until(schedule, day) == until


def test_a_schedule_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"airflow.nightly is 'nightly'.*five fields of cron"):
        AirflowSettings(nightly="nightly")
    with pytest.raises(SettingsError, match=r"airflow.nightly is '20 99 \* \* \*': .*99"):
        nightly_interval_s("20 99 * * *", 0)


def test_a_night_of_the_dag_reads_its_day_and_ends_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def note(settings: Settings, **arguments: Any) -> str:
        asked.update(arguments)
        return "night"

    monkeypatch.setattr(nightly, "open_night", note)
    settings = Settings(home=tmp_path, airflow=AirflowSettings(nightly="0 */6 * * *"))
    params: dict[str, Any] = {"recipe": None, "since": None, "until": None}
    now_ns = parse_time_ns("2026-11-23T00:20")
    assert open_scheduled_night(settings, params, day="2026-11-22", now_ns=now_ns) == "night"
    assert asked == {"recipe": None, "since": None, "until": "2026-11-23", "within_s": 6 * 3_600}
    open_scheduled_night(settings, params | {"until": "2026-11-01"}, day="2026-11-22", now_ns=now_ns)
    assert asked["until"] == "2026-11-01"
    open_scheduled_night(settings, params, day=None, now_ns=now_ns)
    assert asked["until"] is None


def test_each_step_is_described_with_the_time_left_of_the_estimate(tmp_path: Path) -> None:
    folder, now_s, said = NightArtifacts(tmp_path), 0.0, list[str]()
    folder.write(
        ESTIMATE,
        {"seconds": 600.0, "steps": {"build_panel": 120.0, "plan_folds": 0.0, "train_fold-00": 480.0}},
    )
    progress = NightProgress(folder, said.append, clock=lambda: now_s)
    progress.begin("build_panel", text="building")
    now_s = 60.0
    progress.begin("train_fold-00", text="training fold 1 of 1")
    now_s = 180.0
    progress.tell("training fold 1 of 1: mlp, epoch 2")
    assert said == [
        "building; about 10 min left of 10 min",
        "training fold 1 of 1; about 4 min left of 10 min",
        "training fold 1 of 1: mlp, epoch 2; about 2 min left of 10 min",
    ]
    (tmp_path / ESTIMATE).unlink()
    NightProgress(folder, said.append).begin("build_panel", text="building")
    assert said[-1] == "building", "a night that was not estimated"
