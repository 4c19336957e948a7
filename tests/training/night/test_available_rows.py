"""Recipes whose training reads what the venue had published: repaired gaps teach, and never judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch

from serving.report.lake_queries import read_recorded
from storage.clock import DAY_NS, NS
from storage.contracts.tables import BARS
from storage.errors import SettingsError
from storage.lake.lake import Lake
from storage.lake.snapshots import pins
from storage.settings import Settings
from tests.storage.rows import bar
from tests.training.builders import MINUTE_NS, SMALL_RECIPE, START_NS, fill_lake, settings_in, walk
from training.data.folds import split_rows
from training.night.artifacts import NightArtifacts, NightData
from training.night.fold_training import FoldRows, fold_rows
from training.night.pinned_inputs import reads_as_pinned
from training.night.preparation import read_fold
from training.night.steps import build_panel, open_night, plan_folds, train_fold
from training.recipe import get_recipe

STEPS: Final = 700
GAP: Final = range(120, 150)
"""Minutes that the recorder missed, in the first fold's train window; candles of them came a day later."""
EMPTY: Final = dict.fromkeys(
    ("open", "high", "low", "close", "volume", "buy_volume", "notional", "vwap", "trades")
)


@dataclass
class World:
    """Nights over one lake, by the rows that teach."""

    settings: Settings
    nights: dict[str, str]

    def folder(self, rows: str) -> NightArtifacts:
        return NightArtifacts.find(self.settings, self.nights[rows])

    def data(self, rows: str) -> NightData:
        return self.folder(rows).read_data()

    def fold_rows(self, rows: str) -> FoldRows:
        data = self.data(rows)
        fold = read_fold(self.folder(rows).read("folds.json")["folds"][0])
        parts = split_rows(fold, data.labels.ts_decided_ns, data.labels.ts_span_end_ns)
        return fold_rows(data, parts, self.folder(rows).recipe)


def minute(step: int, price: float, **changes: Any) -> dict[str, Any]:
    close_ns = START_NS + (step + 1) * MINUTE_NS
    row = {
        "instrument": "hyperliquid|perp|C0",
        "ts_open": (close_ns - MINUTE_NS) // 1000,
        "ts_close": close_ns // 1000,
        "ts_knowable_ns": close_ns + NS,
        "open": price,
        "high": price * 1.0001,
        "low": price * 0.9999,
        "close": price,
        "volume": 1e4,
        "notional": 1e6,
    }
    return bar(0, **row | changes)


def make_world(home: Path, *, has_gap: bool) -> World:
    settings = settings_in(home)
    log_price = walk(instruments=2, steps=STEPS, seed=3, signal=0.8, volatility=5e-3)
    fill_lake(settings, log_price, but={0: GAP} if has_gap else None)
    if has_gap:
        with Lake.open(settings) as lake:
            price = {step: float(np.exp(log_price[0, step])) for step in GAP}
            blind = {"status": "blind", "cause": "recorder down", "observed_ms": 0} | EMPTY
            lost = [minute(step, price[step], **blind) for step in GAP]
            lake.commit({"bars": BARS.rows(lost)}, batch_id="live")
            late = {"origin": "candle", "observed_ms": 0, "buy_volume": None}
            later_ns = START_NS + DAY_NS
            found = [minute(step, price[step], **late, ts_knowable_ns=later_ns) for step in GAP]
            lake.commit({"bars": BARS.rows(found)}, batch_id="backfill")
    nights = {}
    for rows in ("served", "available"):
        path = home / f"{rows}.toml"
        path.write_text(SMALL_RECIPE.format(name=f"by-{rows}", rows=rows), encoding="utf-8")
        nights[rows] = open_night(settings, recipe=str(path))
        build_panel(settings, nights[rows])
        plan_folds(settings, nights[rows])
    return World(settings, nights)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("gap"), has_gap=True)


def test_both_nights_judge_the_same_bars_and_only_one_learns_from_the_gap(world: World) -> None:
    served, available = world.data("served"), world.data("available")
    assert served.lessons is None
    assert available.lessons is not None
    for name in ("label", "mask", "decidable"):
        assert torch.equal(getattr(served.labels, name), getattr(available.labels, name))
    assert torch.equal(served.block.values, available.block.values)
    is_gap = torch.zeros(STEPS, dtype=torch.bool)
    is_gap[list(GAP)] = True
    known = (served.block.mask[0, is_gap], available.lessons.block.mask[0, is_gap])
    assert int(known[0].sum()) < int(known[1].sum()), "what the clock alone tells is known in both"
    learned = available.lessons.labels.mask & ~available.labels.mask
    assert learned[0, is_gap].any()
    assert not learned[1].any()


def test_rows_that_judge_are_served_over_their_whole_window(world: World) -> None:
    served, available = world.fold_rows("served"), world.fold_rows("available")
    cells = world.data("available").labels.mask.numel()
    assert torch.equal(served.valid, available.valid)
    assert torch.equal(served.test, available.test)
    assert int(available.test.max()) < cells <= int(available.train.min())
    # All served rows that teach teach here, too, and those of the gap in addition.
    assert set(served.train.tolist()) < set((available.train - cells).tolist())


def test_the_basis_is_in_the_identity_and_in_the_hashes(world: World) -> None:
    served, available = world.folder("served").facts, world.folder("available").facts
    assert (served["rows"], available["rows"]) == ("served", "available")
    assert served["content_hash"] == available["content_hash"] != available["lessons_hash"]
    assert served["lessons_hash"] is None
    with Lake.open(world.settings, read_only=True) as lake:
        (pin,) = [item for item in pins(lake) if item.name == world.nights["available"]]
        assert reads_as_pinned(world.settings, pin, lake, pin.snapshot)
        before_the_backfill = lake.query(
            "SELECT min(snapshot_id) AS id FROM lake.snapshots() WHERE commit_message = 'live'"
        )["id"][0].as_py()
        assert not reads_as_pinned(world.settings, pin, lake, before_the_backfill)


def test_the_report_counts_the_bars_on_which_the_two_differ(world: World) -> None:
    with Lake.open(world.settings, read_only=True) as lake:
        assert read_recorded(lake, world.folder("served").facts).differing == len(GAP)


def test_each_basis_is_proven_by_its_own_clock(world: World) -> None:
    proof = world.folder("available").read("proof.json")
    assert proof["passed"]
    assert len(proof["lessons_hindsight"]["cuts"]) == len(proof["hindsight"]["cuts"]) == 3
    assert "lessons_hindsight" not in world.folder("served").read("proof.json")


@pytest.mark.drill
def test_where_both_are_the_same_the_models_are_equal(tmp_path: Path) -> None:
    world = make_world(tmp_path, has_gap=False)
    found = {}
    for rows, night in world.nights.items():
        train_fold(world.settings, night, 0)
        folder = world.folder(rows)
        found[rows] = [folder.read_predictions(f"fold-00/{model}") for model in ("ridge", "mlp")]
        assert len(found[rows][0].step) > 100
    for one, other in zip(*found.values(), strict=True):
        assert np.array_equal(one.prediction, other.prediction)
        assert np.array_equal(one.step, other.step)


def test_an_unknown_basis_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text('base = "demo"\nname = "wrong"\nrows = "all"\n')
    with pytest.raises(SettingsError, match=r"'served' or 'available'|rows is 'all'|does not fit"):
        get_recipe(str(path))
