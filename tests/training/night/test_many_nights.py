"""Whole small nights in sequence on one home: noise is never promoted, and a planted edge is, but on paper only.

The short forms are in test_steps.py, where two nights share their training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.clock import NS, ManualTime, iso
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.training.builders import MINUTE_NS, START_NS, fill_lake, settings_in, walk
from training.night.registry import current_champion
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_fold

FIRST_HOUR = 44
RECIPE = """
base = "demo"
name = "hourly"
feature_set = "candles"
window_bars = 4
seeds = 1
controls = ["zero", "ridge"]
challengers = ["lightgbm"]
[folds]
n_folds = 7
unit = "hour"
test_units = 5
valid_units = 3
train_units = 5
embargo_bars = 6
"""


def judge_hours(home: Path, log_price: np.ndarray, hours: list[int]) -> list[dict[str, Any]]:
    """Fill a lake, run a night at the end of each of these hours, and return the verdicts."""
    settings = settings_in(home)
    fill_lake(settings, log_price)
    recipe = home / "hourly.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    return [run_night(settings, str(recipe), hour) for hour in hours]


def run_night(settings: Settings, recipe: str, hour: int) -> dict[str, Any]:
    until_ns = (START_NS // (60 * MINUTE_NS) + hour) * 60 * MINUTE_NS
    name = open_night(settings, recipe=recipe, until=iso(until_ns))
    build_panel(settings, name)
    for fold in plan_folds(settings, name):
        train_fold(settings, name, fold)
    return judge_night(settings, name, clock=ManualTime(1_800_000_000 * NS + hour))


@pytest.mark.drill
def test_planted_edge_without_quotes_is_kept_on_paper_and_each_hour_enters_once(tmp_path: Path) -> None:
    drift = walk(instruments=2, steps=(FIRST_HOUR + 6) * 60, seed=3, signal=0.8, volatility=5e-3)
    first, second = judge_hours(tmp_path, drift, [FIRST_HOUR, FIRST_HOUR + 5])
    evidence = first["evidence"][0]
    assert evidence["p_value"] <= 0.0125
    assert first["state"] == "paper"
    assert (evidence["quoted_value"], evidence["quoted_days"]) == (1.0, 0)
    later = second["evidence"][0]
    assert (later["p_value"], later["start"], later["k"]) == (evidence["p_value"], evidence["start"], 1)
    assert later["value"] > evidence["value"]
    with Lake.open(settings_in(tmp_path), read_only=True) as lake:
        rows = lake.query(
            "SELECT source, count(*) AS n, count(DISTINCT day_ns) AS days FROM gate_days GROUP BY ALL"
        )
        assert {row["source"]: (row["n"], row["days"]) for row in rows.to_pylist()} == {
            "history": (evidence["history"]["periods"],) * 2,
            "path": (5, 5),
        }
        assert later["days"] == 5
        assert current_champion(lake, "hourly") is None


@pytest.mark.drill
def test_sixty_nights_without_an_edge_promote_nothing(tmp_path: Path) -> None:
    noise = walk(instruments=2, steps=(FIRST_HOUR + 62) * 60, seed=11, volatility=5e-3)
    verdicts = judge_hours(tmp_path, noise, list(range(FIRST_HOUR, FIRST_HOUR + 60)))
    assert {verdict["state"] for verdict in verdicts} == {"rejected"}
    print(f"largest evidence: {max(verdict['evidence'][0]['value'] for verdict in verdicts):.2f} of 40")
