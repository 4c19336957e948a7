"""A night on a pinned snapshot: equal bits on a second run, whatever rows arrive later."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from features.panel.panel import load_panel
from ingest.replay.rebuild import find_sources, rebuild
from serving import cli
from storage.clock import DAY_NS, NS, ManualTime
from storage.contracts.tables import BARS, FEES, FUNDING
from storage.errors import SettingsError
from storage.lake.fees import seed_fees
from storage.lake.lake import Lake
from storage.lake.maintenance import compact, expire, remove_freed
from storage.lake.snapshots import diff_rows, kept_snapshots, snapshot_ids
from storage.settings import Settings
from tests.storage.rows import bar, funding
from tests.training.builders import MINUTE_NS, SMALL_RECIPE, START_NS, fill_lake, settings_in, walk
from training.evaluation.costs import Costs
from training.night.artifacts import NightArtifacts
from training.night.pinned_inputs import read_taker_fees, reads_as_pinned
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_fold

STEPS = 700
CLOCK = ManualTime(1_800_000_000 * NS)
LATER_NS = time.time_ns() + 400 * DAY_NS
RECIPE = SMALL_RECIPE.format(name="least", rows="served")
BLIND = (300, 301, 302)
"""Unobserved minutes of the first instrument, in the middle of the training rows."""
LATE = 200
"""A minute with a print that arrived long after its close."""
EMPTY = dict.fromkeys(("open", "high", "low", "close", "volume", "buy_volume", "notional", "vwap", "trades"))


def minute(step: int, *, name: str = "C0", **changes: Any) -> dict[str, Any]:
    """Return a bar of a step of the walk, knowable a second after its close."""
    close_ns = START_NS + (step + 1) * MINUTE_NS
    stamps = {
        "ts_open": (close_ns - MINUTE_NS) // 1000,
        "ts_close": close_ns // 1000,
        "ts_knowable_ns": close_ns + NS,
    }
    return bar(0, instrument=f"hyperliquid|perp|{name}", **stamps | changes)


@dataclass
class World:
    """A lake, the night that was trained on it, and the rows that arrived later."""

    settings: Settings
    night: str
    pinned: int
    files: dict[str, bytes]
    landed: list[tuple[str, datetime, int]] = field(default_factory=list)

    @property
    def folder(self) -> NightArtifacts:
        return NightArtifacts.find(self.settings, self.night)


def run_night(settings: Settings, *, at: int | None = None) -> str:
    recipe = settings.home / "least.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    night = open_night(settings, recipe=str(recipe), at=at)
    build_panel(settings, night)
    for fold in plan_folds(settings, night):
        train_fold(settings, night, fold)
    judge_night(settings, night, clock=CLOCK)
    return night


def files_of(folder: NightArtifacts) -> dict[str, bytes]:
    """Return every file of a night except its timings."""
    return {
        str(path.relative_to(folder.path)): path.read_bytes()
        for path in sorted(folder.path.rglob("*"))
        if path.is_file() and "timings" not in path.parts
    }


def land(lake: Lake, world: World, table: str, batch_id: str, rows: list[dict[str, Any]]) -> None:
    contract = {"bars": BARS, "funding": FUNDING}[table]
    done = lake.commit({table: contract.rows(rows)}, batch_id=batch_id)
    assert (done.rows, done.refused) == ({table: len(rows)}, 0)
    if table == "bars":
        held = lake.query("SELECT instrument, ts_open, revision FROM bars WHERE batch = ?", [batch_id])
        world.landed += [tuple(row.values()) for row in held.to_pylist()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Train a night, then add live data, a late print and a backfill over its range."""
    settings = settings_in(Path(tmp_path_factory.mktemp("world")))
    fill_lake(settings, walk(instruments=2, steps=STEPS, seed=3, signal=0.8, volatility=5e-3), but={0: BLIND})
    with Lake.open(settings) as lake:
        blind = {"status": "blind", "cause": "recorder down", "observed_ms": 0} | EMPTY
        lake.commit({"bars": BARS.rows([minute(step, **blind) for step in BLIND])}, batch_id="blind")
    night = run_night(settings)
    facts = NightArtifacts.find(settings, night).facts
    world = World(settings, night, facts["snapshot"], files_of(NightArtifacts.find(settings, night)))
    with Lake.open(settings) as lake:
        live = [minute(step, name=name) for step in range(STEPS, STEPS + 30) for name in ("C0", "C1")]
        land(lake, world, "bars", "live:tomorrow:0-99", live)
        late_ns = START_NS + (LATE + 1) * MINUTE_NS + 90 * NS
        revised = minute(LATE, revision=1, volume=10_001.0, ts_knowable_ns=late_ns)
        land(lake, world, "bars", "live:late:0-9", [revised])
        filled = [minute(step, origin="candle", buy_volume=None) for step in BLIND]
        land(lake, world, "bars", "candle bars:of the past", filled)
    return world


def test_lake_diff_lists_exactly_the_bars_that_arrived_later(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert len(world.landed) == 60 + 1 + len(BLIND)
    # Blind and revised bars have their next revision; no row was edited.
    assert sorted(revision for _, _, revision in world.landed) == [0] * 60 + [1] * 4
    with Lake.open(world.settings, read_only=True) as lake:
        rows = diff_rows(lake, world.pinned, lake.snapshot(), "bars").to_pylist()
        newest = lake.snapshot()
    assert [(row["instrument"], row["ts_open"], row["revision"]) for row in rows] == sorted(world.landed)
    monkeypatch.chdir(tmp_path)
    asked = ("lake", "diff", str(world.pinned), str(newest), "--table", "bars", "--format", "json")
    cli.main(["--home", str(world.settings.home), *asked])
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [
        (row["instrument"], datetime.fromisoformat(row["ts_open"]), row["revision"]) for row in shown
    ] == sorted(world.landed)


def test_a_registered_version_keeps_its_snapshot(world: World) -> None:
    version = world.folder.read("verdict.json")["version"]
    with Lake.open(world.settings, read_only=True) as lake:
        assert kept_snapshots(lake) == {world.pinned: (world.night, f"version {version}")}


@pytest.mark.drill
def test_the_newest_snapshot_makes_another_night(world: World) -> None:
    night = run_night(world.settings)
    assert night != world.night
    before, after = world.folder, NightArtifacts.find(world.settings, night)
    assert before.facts["content_hash"] != after.facts["content_hash"]
    # The backfilled bars are visible, and the print that came too late for a live system is not.
    close = [folder.read_data().panel.column("close")[0] for folder in (before, after)]
    is_other = torch.isnan(close[0]) & ~torch.isnan(close[1][:STEPS])
    assert torch.nonzero(is_other).flatten().tolist() == list(BLIND)
    volume = [folder.read_data().panel.column("volume")[0, LATE] for folder in (before, after)]
    assert volume[0] == volume[1] == 10_000.0
    weights = [
        safetensors.torch.load_file(next((folder.path / "deploy").glob("weights-*.safetensors")))
        for folder in (before, after)
    ]
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_funding_that_arrives_later_makes_another_night(world: World) -> None:
    recipe = str(world.settings.home / "least.toml")
    with Lake.open(world.settings) as lake:
        without = lake.snapshot()
        paid = [
            funding(0, instrument="hyperliquid|perp|C0", ts_event=(START_NS + hour * 60 * MINUTE_NS) // 1000)
            for hour in range(1, 9)
        ]
        land(lake, world, "funding", "funding:of the past", paid)
    assert open_night(world.settings, recipe=recipe) != open_night(world.settings, recipe=recipe, at=without)


def test_fees_in_force_are_part_of_the_identity_and_later_ones_are_not(world: World) -> None:
    recipe = str(world.settings.home / "least.toml")
    facts = world.folder.facts
    assert [row["bps"] for row in facts["fees"]["rows"]] == [3.5]
    with Lake.open(world.settings) as lake:
        before = lake.snapshot()
        row = {"venue": "hyperliquid", "kind": "perp", "dex": "", "tier": "base", "role": "taker"}
        row |= {"ts_from": START_NS // 1000, "ts_to": None, "source": "made"}
        late_ns = START_NS + 10 * STEPS * MINUTE_NS
        lake.commit({"fees": FEES.rows([row | {"bps": 9.0, "ts_knowable_ns": late_ns}])}, batch_id="late fee")
    known = open_night(world.settings, recipe=recipe, at=before)
    assert open_night(world.settings, recipe=recipe) == known
    with Lake.open(world.settings) as lake:
        lake.commit({"fees": FEES.rows([row | {"bps": 5.0, "ts_knowable_ns": START_NS}])}, batch_id="fee")
    changed = open_night(world.settings, recipe=recipe)
    assert changed != known
    rows = NightArtifacts.find(world.settings, changed).facts["fees"]["rows"]
    assert [row["bps"] for row in rows] == [5.0]


def test_snapshot_without_fees_takes_the_newest_unless_the_recipe_sets_its_own(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    fill_lake(settings, walk(instruments=1, steps=STEPS, seed=3))
    with Lake.open(settings) as lake:
        before = lake.snapshot()
    recipe = tmp_path / "least.toml"
    recipe.write_text(RECIPE + "[costs]\ntaker_fee_bps = 2.0\n", encoding="utf-8")
    own = NightArtifacts.find(settings, open_night(settings, recipe=str(recipe), at=before))
    assert own.fees.rows == ()
    recipe.write_text(RECIPE, encoding="utf-8")
    for at in (before, None):  # writes the missing fees first
        night = open_night(settings, recipe=str(recipe), at=at)
        assert [row.bps for row in NightArtifacts.find(settings, night).fees.rows] == [3.5]


def test_market_without_a_known_fee_is_refused_with_the_setting_that_replaces_it(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    fill_lake(settings, walk(instruments=1, steps=STEPS, seed=3))
    with Lake.open(settings) as lake:
        seed_fees(lake)
        panel = load_panel(lake, width="1m", grace_ns=settings.bars.grace_ns)
        panel = replace(panel, instruments=("hyperliquid|option|C0",))
        with pytest.raises(SettingsError, match=r"no taker fee of hyperliquid\|option\|C0.*") as error:
            read_taker_fees(lake, panel, Costs(half_spread_bps=1.0), at=lake.snapshot())
    assert error.value.hint.startswith("set costs.taker_fee_bps in the recipe")


def test_missing_fee_is_refused_when_the_night_opens(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    row = minute(0) | {"instrument": "hyperliquid|spot|C0"}  # whose published fees begin in May 2025
    with Lake.open(settings) as lake:
        lake.commit({"bars": BARS.rows([row])}, batch_id="spot")
    recipe = tmp_path / "least.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    with pytest.raises(
        SettingsError, match=r"no taker fee of hyperliquid\|spot\|C0 at hyperliquid, tier base"
    ):
        open_night(settings, recipe=str(recipe))
    assert not (settings.models_dir / "nights").exists()


def test_a_pinned_night_repeats_to_the_bit_after_maintenance(world: World) -> None:
    with Lake.open(world.settings) as lake:
        compact(lake, now_ns=LATER_NS)
        gone = expire(lake, now_ns=LATER_NS, dry_run=False)
        remove_freed(lake, now_ns=LATER_NS)
        assert len(gone) > 3
        assert world.pinned in snapshot_ids(lake)
    aside = world.folder.path.rename(world.folder.path.with_name("aside"))
    try:
        assert run_night(world.settings, at=world.pinned) == world.night
        again = files_of(world.folder)
    finally:
        if world.folder.path.exists():
            world.folder.path.rename(aside.with_name("again"))
        aside.rename(aside.with_name(world.night))
    kinds = {"weights", "state", "predictions", "metrics", "verdict", "night"}
    assert {kind for kind in kinds if any(kind in name for name in again)} == kinds
    assert again.keys() == world.files.keys()
    assert [name for name, body in again.items() if body != world.files[name]] == []


def harm(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[-9] ^= 64
    path.write_bytes(body)


@pytest.mark.parametrize("found", [pytest.param("full", marks=pytest.mark.drill), "damaged", "empty"])
def test_no_file_of_a_night_depends_on_the_cache(world: World, found: str) -> None:
    """Cached panels and days of features save work; damaged ones are rebuilt."""
    kept = sorted(world.settings.features_dir.rglob("*.safetensors"))
    assert len({path.parent for path in kept}) == 2, "panels, and days of one set"
    if found == "damaged":
        for path in kept:
            harm(path)
    elif found == "empty":
        shutil.rmtree(world.settings.features_dir)
    recipe = str(world.settings.home / "least.toml")
    aside = world.folder.path.rename(world.folder.path.with_name("aside"))
    try:
        assert open_night(world.settings, recipe=recipe, at=world.pinned) == world.night
        build_panel(world.settings, world.night)
        again = files_of(world.folder)
    finally:
        shutil.rmtree(world.folder.path)
        aside.rename(aside.with_name(world.night))
    assert {"panel.safetensors", "features.safetensors", "labels.safetensors", "health.json"} < again.keys()
    assert [name for name, body in again.items() if body != world.files[name]] == []


@pytest.mark.drill
def test_a_rebuilt_lake_pins_a_night_by_the_hash_of_its_rows(world: World, tmp_path: Path) -> None:
    """A night of another range than the newest: its pin moves to a snapshot with equal rows."""
    settings = world.settings
    done = rebuild(
        settings,
        find_sources(settings),
        to=tmp_path / "anew",
        reads_same=lambda pin, lake, at: reads_as_pinned(settings, pin, lake, at),
    )
    assert done.missing == 0
    found = {item.pin.name: item for item in done.pins}
    assert found[world.night].snapshot is not None
    with Lake.open(settings_in(tmp_path / "anew"), read_only=True) as lake:
        for item in found.values():
            assert item.snapshot is not None
            assert reads_as_pinned(settings, item.pin, lake, item.snapshot)
        assert not reads_as_pinned(settings, found[world.night].pin, lake, lake.snapshot())
