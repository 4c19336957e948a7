"""Features of a day, and which day a night follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serving.day_jobs.day_features import BACKFILL, build_features_of_run, why_no_night
from storage.clock import HOUR_NS, ManualTime, parse_time_ns
from storage.errors import SettingsError
from storage.settings import Settings
from storage.settings.services import AirflowSettings
from tests.dags.small_night import TRAINING, furnish
from training.night.steps import build_panel, open_night

DAYS = ("2025-10-20", "2025-10-21", "2025-10-22")
"""Whole days of the small night's candles; those of the 23rd end at 03:00."""
LATER = ManualTime(parse_time_ns("2025-10-25"))
NEXT_DAY = ManualTime(parse_time_ns("2025-10-23") + HOUR_NS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(home=tmp_path_factory.mktemp("features"))
    recipe = furnish(settings)
    bars = replace(settings.bars, widths=("5m",))
    return replace(settings, training=replace(TRAINING, recipe=str(recipe)), bars=bars)


def test_the_first_run_builds_all_changed_days_and_a_night_reads_them(home: Settings) -> None:
    first = build_features_of_run(home, {}, DAYS[0], ["seal_day"])
    assert (first["is_built"], first["built"], first["rows"]) == (True, 4, 3 * 900)
    assert first["why_no_night"] == "2025-10-20 is not the newest day: the bars of 2025-10-22 are complete"
    second = build_features_of_run(home, {"day": DAYS[2]}, None, [])
    assert (second["built"], second["why_no_night"]) == (0, "")
    assert len(before := day_files(home)) == 4
    build_panel(home, open_night(home, until="2025-10-23"))
    assert day_files(home) == before, "named by what they were made from: the night made no other"


def day_files(home: Settings) -> set[str]:
    return {path.name for path in home.features_dir.rglob("2025-*.safetensors")}


@pytest.mark.parametrize(
    ("day", "is_backfilled", "clock", "why"),
    [
        (DAYS[2], False, LATER, ""),
        (DAYS[2], True, NEXT_DAY, ""),
        (
            DAYS[2],
            True,
            LATER,
            "2025-10-22 was backfilled, and is not yesterday: a backfill ends at features",
        ),
        (DAYS[1], False, LATER, "2025-10-21 is not the newest day: the bars of 2025-10-22 are complete"),
        (DAYS[1], True, NEXT_DAY, "2025-10-21 is not the newest day: the bars of 2025-10-22 are complete"),
        ("2025-10-24", False, LATER, "the lake has no bar of 2025-10-24, so a night would find nothing new"),
    ],
)
def test_only_the_newest_day_is_followed_by_a_night(
    home: Settings, day: str, is_backfilled: bool, clock: ManualTime, why: str
) -> None:
    assert why_no_night(home, day, is_backfilled=is_backfilled, clock=clock) == why


def test_a_schedule_of_certain_days_leaves_the_others_without_a_night(home: Settings) -> None:
    mondays = replace(home, airflow=AirflowSettings(nightly="20 0 * * 1"))
    assert why_no_night(mondays, DAYS[2], clock=LATER) == (
        "no night follows 2025-10-22 by the schedule airflow.nightly = '20 0 * * 1'"
    )
    thursdays = replace(home, airflow=AirflowSettings(nightly="20 0 * * 4"))
    assert why_no_night(thursdays, DAYS[2], clock=LATER) == ""


def test_days_of_several_sources_count_as_sealed(home: Settings) -> None:
    both = build_features_of_run(home, {}, DAYS[2], [BACKFILL, "seal_day"])
    assert both["why_no_night"] == ""
    alone = build_features_of_run(home, {}, DAYS[2], [BACKFILL, BACKFILL])
    assert alone["why_no_night"].endswith("is not yesterday: a backfill ends at features")


def test_without_a_recipe_that_fits_nothing_is_built(home: Settings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no recipe fits the lake|recipes fit the lake"):
        build_features_of_run(replace(home, training=TRAINING), {}, DAYS[0], [])
