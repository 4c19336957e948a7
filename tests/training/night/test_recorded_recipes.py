"""The recipes for recorded data, as nights on what the recorder stores of the simulated venues and of a capture."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path
from typing import Any

import pytest

from ingest.replay.replay import replay
from storage.clock import ManualTime, parse_time_ns
from storage.errors import RangeError, SettingsError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.conftest import recorded
from tests.patience import IS_DRILL
from tests.training.builders import settings_in
from tests.training.recordings import RECORDED_SINCE, record_both
from training.night.artifacts import NightArtifacts
from training.night.lineage_evidence import lineage_of
from training.night.recipe_choice import check_recipes, choose_recipe
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_fold
from training.recipe import RECIPES, get_recipe

VENUES = {"hyperliquid-1m": "hyperliquid", "gaiaex-mid": "gaiaex"}
COINS = ("BTC",)
# A night needs the longest lookback and a fold; what is refused before is refused on less.
HOURS = 4.1 if IS_DRILL else 0.5
CLOCK = ManualTime(parse_time_ns(RECORDED_SINCE) + 10 * 86_400 * 10**9)
SMALL = """
base = "{base}"
name = "small-{base}"
window_bars = 4
seeds = 1
controls = ["ridge"]
challengers = ["mlp"]
{more}
[label]
horizon_bars = 5
volatility_bars = 30
[position]
hold_bars = 5
[folds]
n_folds = 1
unit = "hour"
test_units = 1
valid_units = 1
train_units = 1
embargo_bars = 6
[fit]
epochs = 1
batch = 128
"""


def small(folder: Path, base: str, more: str = "") -> str:
    path = folder / f"small-{base}.toml"
    path.write_text(SMALL.format(base=base, more=more), encoding="utf-8")
    return str(path)


def run_steps(settings: Settings, recipe: str) -> tuple[NightArtifacts, dict[str, Any]]:
    night = open_night(settings, recipe=recipe)
    build_panel(settings, night)
    for fold in plan_folds(settings, night):
        train_fold(settings, night, fold)
    verdict = judge_night(settings, night, clock=CLOCK)
    return NightArtifacts.find(settings, night), verdict


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Both venues, recorded for some hours."""
    settings = settings_in(tmp_path_factory.mktemp("recorded"))
    settings.ensure_home()
    record_both(settings, hours=HOURS, coins=COINS)
    return settings


def check_night(folder: NightArtifacts, verdict: dict[str, Any], base: str) -> None:
    """Check what a night of a recorded recipe must have, whatever its length."""
    venue = VENUES[base]
    assert folder.facts["instruments"] == [f"{venue}|perp|{coin}" for coin in COINS]
    counts = folder.read("panel.json")
    assert counts["basis"]["print"] == 0, "every label is a return of mids"
    assert counts["basis"]["mid"] > 0.8 * counts["steps"] * len(COINS)
    statuses = {name for name, count in counts["status"].items() if count}
    assert statuses == ({"quiet"} if venue == "gaiaex" else {"printed", "quiet"})
    # Features across instruments need three of them.
    ranked = {"return_rank", "volatility_rank", "market_", "mid_return_rank", "mid_residual", "eth_", "btc_"}
    never = [name for name, share in counts["valid_share"].items() if share == 0]
    assert [name for name in never if not any(part in name for part in ranked)] == []
    figures = folder.read("summary.json")
    assert figures["path"]["quoted_share"] in (None, 1.0)
    assert verdict["state"] in ("champion", "paper", "rejected")
    assert (folder.path / "deploy" / "manifest.json").exists()


@pytest.mark.drill
@pytest.mark.parametrize("base", VENUES)
def test_a_small_night_of_each_recorded_recipe_ends_with_a_verdict(home: Settings, base: str) -> None:
    folder, verdict = run_steps(home, small(home.home, base))
    check_night(folder, verdict, base)
    assert folder.recipe.feature_set == RECIPES[base].feature_set


@pytest.mark.parametrize("base", VENUES)
def test_what_the_range_is_too_short_for_is_said_with_the_units_of_the_folds(
    home: Settings, base: str
) -> None:
    with pytest.raises(
        RangeError,
        match=r"hours from 2026-09-07.* are too few for one fold of 4 days \(2 train, 1 valid, 1 test\)",
    ):
        open_night(home, recipe=base)


@pytest.mark.drill
def test_both_recipes_run_as_they_are_on_five_days(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    settings.ensure_home()
    record_both(settings, hours=121, coins=COINS)
    for base in VENUES:
        folder, verdict = run_steps(settings, base)
        check_night(folder, verdict, base)
        assert [entry["index"] for entry in folder.read("folds.json")["folds"]] == [0, 1]


@pytest.mark.parametrize(
    "frames",
    [pytest.param(None, id="whole", marks=pytest.mark.drill), pytest.param(2_500, id="its first frames")],
)
def test_a_real_capture_says_what_each_recipe_lacks(tmp_path: Path, frames: int | None) -> None:
    """35 minutes of prints, quotes and books of four coins, without contexts; no fold is that short."""
    capture = recorded("hyperliquid/ws_20250904_4coins.ndjson.gz")
    settings = settings_in(tmp_path / "home")
    settings.ensure_home()
    if frames is not None:
        with gzip.open(capture, "rt", encoding="utf-8") as file:
            lines = list(itertools.islice(file, frames))
        capture = tmp_path / "first.ndjson"
        capture.write_text("".join(lines), encoding="utf-8")
    with Lake.open(settings) as lake:
        replay(capture, settings, lake)
        recorded_fit, mid_fit = check_recipes(settings, lake, VENUES)
        with pytest.raises(SettingsError, match=r"(?s)no recipe fits the lake:.*hyperliquid-1m lacks"):
            choose_recipe(settings, lake)
    assert recorded_fit.venues == ("hyperliquid",)
    assert len(recorded_fit.instruments) == 4
    contexts, history = recorded_fit.missing
    assert contexts == (
        "columns that its features read: context_age_ms, funding_rate, mark, open_interest, oracle"
    )
    assert "too few for one fold of 4 days (2 train, 1 valid, 1 test)" in history
    assert "the first would end at 2025-09-09T00:00:00.000Z" in history
    assert mid_fit.missing == ("1m bars of gaiaex from live or venue_replay or recent",)
    with pytest.raises(RangeError, match=r"2025-09-04.* are too few for one fold of 4 days"):
        open_night(settings, recipe="hyperliquid-1m")
    # The shortest folds that a recipe can have are hours.
    with pytest.raises(RangeError, match=r"are too few for one fold of 3 hours \(1 train, 1 valid, 1 test\)"):
        open_night(settings, recipe=small(tmp_path, "hyperliquid-1m"))


def test_a_venue_without_bars_is_refused_with_those_that_have_some(home: Settings) -> None:
    recipe = small(home.home, "gaiaex-mid", 'venues = ["bitfinex"]')
    with pytest.raises(
        RangeError, match=r"at bitfinex, which recipe .* asks for; there are bars of: gaiaex, hyperliquid"
    ):
        open_night(home, recipe=recipe)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('venues = ["Hyper|liquid"]', "venues names 'Hyper|liquid'"),
        ('venues = ["gaiaex", "gaiaex"]', "venues names 'gaiaex'.*once"),
        ('instruments = ["hyperliquid|perp|BTC"]', "hyperliquid|perp|BTC is of none of its venues: gaiaex"),
    ],
)
def test_a_wrong_universe_is_refused(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message.replace("|", r"\|")):
        get_recipe(small(tmp_path, "gaiaex-mid", more))


def test_venues_are_part_of_the_lineage(tmp_path: Path) -> None:
    def universe(more: str) -> object:
        return lineage_of(get_recipe(small(tmp_path, "gaiaex-mid", more))).definition["universe"]

    assert universe("") == ["gaiaex|*"]
    assert universe('venues = ["hyperliquid", "gaiaex"]') == universe('venues = ["gaiaex", "hyperliquid"]')
    assert universe("venues = []") == "all"
    assert universe('instruments = ["gaiaex|perp|BTC"]') == ["gaiaex|perp|BTC"]
