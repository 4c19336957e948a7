"""Evidence over nights: each day enters once, a champion is renewed, beaten or demoted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.lake.lake import Lake
from tests.training.builders import settings_in
from tests.training.evaluation.gate_simulation import DAY_NS, net_of
from training.evaluation.gate import NULL_ZERO, ChampionComparison, preconditions
from training.evaluation.period_net import PeriodNet
from training.night.decision import NightDecision, decide_night
from training.night.lineage_evidence import (
    EvidenceStart,
    GateDay,
    GateRecord,
    Lineage,
    evidence_rows,
    lineage_of,
    read_gate_record,
)
from training.night.registry import VersionEvent, append_events
from training.recipe import RECIPES

SOUND = preconditions(leaks=0, features_proven=True, leak_suite="", champion=None)
OWN, OTHER = Lineage("own", {"width": "1m"}), Lineage("other", {"width": "5m"})


@dataclass
class SmallHome:
    """The record of a home in memory, extended by each night."""

    starts: list[EvidenceStart] = field(default_factory=list)
    days: dict[tuple[str, str], tuple[GateDay, ...]] = field(default_factory=dict)
    serving: VersionEvent | None = None

    @property
    def record(self) -> GateRecord:
        return GateRecord(tuple(self.starts), self.days)

    def judge(
        self,
        path: PeriodNet,
        *,
        lineage: Lineage = OWN,
        checks: Any = SOUND,
        serving_net: Mapping[int, float] | None = None,
    ) -> NightDecision:
        decided = decide_night(
            "ridge",
            lineage,
            path,
            np.empty((len(path), 0)),
            checks=checks,
            record=self.record,
            serving=self.serving,
            serving_net=serving_net or {},
            must_beat=True,
            least_block=1,
            false_promotions=0.05,
            seed=0,
        )
        for item in decided.collected:
            key = (lineage.name, item.weighed.null)
            self.days[key] = (*self.days.get(key, ()), *item.new_days)
            self.starts += [item.start] if item.start else []
        if decided.demotion is not None and decided.demotion.is_demoted:
            self.serving = None
        if decided.gate.promoted:
            self.serving = event_of(decided.kept)
        return decided


def event_of(kept: Mapping[str, Any]) -> VersionEvent:
    return VersionEvent(
        version="ridge-night",
        event="champion",
        recipe="demo",
        model="ridge",
        night="night",
        reason="",
        metrics={"gate": dict(kept)},
        inputs={},
        artefact="nights/night/deploy",
        ts_knowable_ns=1,
    )


def days_of(count: int, *, edge: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count) + edge


EDGE = days_of(400, edge=0.4)
NOISE = days_of(400, edge=-0.02, seed=1)


def test_strong_history_is_promoted_at_once_and_renewed() -> None:
    home = SmallHome()
    first = home.judge(net_of(EDGE[:200]))
    assert first.gate.state == "champion"
    assert [item.source for item in home.days["own", NULL_ZERO]] == ["history"] * 200
    second = home.judge(net_of(EDGE[:201]))
    assert second.gate.reason == "renews the champion of its lineage"
    # The renewal keeps the edge of the promotion, by which it is monitored.
    assert [second.kept[name] for name in ("mu", "sigma", "days", "since_ns")] == [
        first.kept[name] for name in ("mu", "sigma", "days", "since_ns")
    ]
    assert second.demotion is not None
    assert second.demotion.days == 1


def test_each_day_enters_once_and_in_order() -> None:
    home = SmallHome()
    home.judge(net_of(NOISE[:40]))
    once = home.judge(net_of(NOISE[:60]))
    stepwise = SmallHome()
    for stop in (40, 47, 47, 60, 52, 60):
        last = stepwise.judge(net_of(NOISE[:stop]))
    assert last.collected[0].weighed == once.collected[0].weighed
    assert [day.day_ns for day in stepwise.days["own", NULL_ZERO]] == [DAY_NS * i for i in range(60)]


def test_first_path_of_a_day_counts() -> None:
    """A later night cannot improve a day that has entered."""
    home = SmallHome()
    home.judge(net_of(NOISE[:60]))
    before = home.judge(net_of(NOISE[:70])).collected[0].weighed.value
    improved = NOISE[:70] + 5.0
    again = home.judge(net_of(improved))
    assert again.collected[0].new_days == ()
    assert again.collected[0].weighed.value == before


def test_risk_of_a_later_day_knows_all_earlier_days() -> None:
    home = SmallHome()
    home.judge(net_of(NOISE[:40]))
    home.judge(net_of(NOISE[:41]))
    assert home.days["own", NULL_ZERO][-1].risk == pytest.approx(NOISE[:40].std(ddof=1))
    assert home.days["own", NULL_ZERO][-1].source == "path"


def test_edge_without_a_history_is_promoted_by_its_later_days() -> None:
    home = SmallHome()
    nights = [home.judge(net_of(EDGE[:stop])).gate.state for stop in range(5, 150)]
    assert nights[0] == "rejected"
    assert "champion" in nights
    assert home.starts[0].p_value is None
    # Days 5 to 20 only measure the risk.
    assert all(np.isinf(day.risk) for day in home.days["own", NULL_ZERO][:20])
    assert np.isfinite(home.days["own", NULL_ZERO][20].risk)


def test_another_lineage_must_beat_the_champion() -> None:
    home = SmallHome()
    home.judge(net_of(EDGE[:200]))
    equal = home.judge(net_of(EDGE[:200] + 0.1 * days_of(200, edge=0.0, seed=5)), lineage=OTHER)
    assert [item.weighed.null for item in equal.collected] == [NULL_ZERO, "own"]
    assert equal.gate.state == "rejected"
    assert "earns more than own" in equal.gate.reason
    better = SmallHome()
    better.judge(net_of(EDGE[:200]))
    winner = better.judge(net_of(EDGE[:200] + days_of(200, edge=0.6, seed=5)), lineage=OTHER)
    assert winner.gate.state == "champion"
    assert {item.weighed.k for item in winner.collected} == {2}


def test_champion_without_recorded_days_is_compared_by_its_weights() -> None:
    home = SmallHome(serving=replace(event_of({}), metrics={}))
    weights = {DAY_NS * i: float(value) for i, value in enumerate(EDGE[:100]) if i >= 70}
    decided = home.judge(net_of(EDGE[:100] + 0.5), serving_net=weights)
    paired = decided.collected[1]
    assert paired.weighed.null == "ridge-night"
    assert [day.net for day in paired.days] == pytest.approx([0.5] * 30)


def test_champion_that_lost_its_edge_becomes_paper_and_its_lineage_starts_again() -> None:
    home = SmallHome()
    assert home.judge(net_of(EDGE[:200])).gate.promoted
    lost = np.concatenate([EDGE[:200], days_of(60, edge=-0.4, seed=3)])
    for night in range(201, 261):
        decided = home.judge(net_of(lost[:night]))
        assert decided.demotion is not None
        if decided.demotion.is_demoted:
            break
    assert night - 200 <= 40
    assert decided.gate.state == "rejected"
    assert home.serving is None
    newest = home.record.start("own", NULL_ZERO)
    assert newest is not None
    assert (newest.k, newest.p_value) == (2, None)
    assert decided.collected[0].weighed.value == 1.0
    # The days that demoted it are used up, and the next one enters under the new number.
    following = home.judge(net_of(lost[: night + 1]))
    assert (following.collected[0].weighed.k, following.collected[0].weighed.days) == (2, 1)
    assert following.gate.state == "rejected"
    assert following.demotion is None


@pytest.mark.drill
def test_lineage_that_starts_again_is_promoted_by_new_days_alone() -> None:
    home = SmallHome()
    home.judge(net_of(EDGE[:200]))
    net = np.concatenate([EDGE[:200], days_of(40, edge=-1.0, seed=3), days_of(200, edge=0.7, seed=4)])
    states = [home.judge(net_of(net[:stop])) for stop in range(201, 440)]
    demoted = next(i for i, item in enumerate(states) if item.demotion and item.demotion.is_demoted)
    again = next(i for i, item in enumerate(states) if i > demoted and item.gate.promoted)
    assert again > demoted + 20
    # Its edge is measured on the days after the demotion.
    assert states[again].kept["days"] == again - demoted


def test_failed_precondition_adds_no_evidence_and_spends_no_number() -> None:
    home = SmallHome()
    decided = home.judge(
        net_of(EDGE[:200]), checks=preconditions(leaks=3, features_proven=True, leak_suite="", champion=None)
    )
    assert decided.gate.state == "rejected"
    assert decided.collected == ()
    assert home.starts == []
    assert home.judge(net_of(EDGE[:200])).collected[0].weighed.k == 1


def test_damaged_champion_blocks_and_is_still_monitored() -> None:
    home = SmallHome()
    home.judge(net_of(EDGE[:200]))
    damaged = ChampionComparison("ridge-night", 0, np.nan, np.nan, obstacle="gone", is_damaged=True)
    decided = home.judge(
        net_of(EDGE[:201]),
        checks=preconditions(leaks=0, features_proven=True, leak_suite="", champion=damaged),
    )
    assert decided.gate.state == "rejected"
    assert decided.demotion is not None


def test_lineage_is_what_is_traded_and_not_how_it_is_trained() -> None:
    recipe = RECIPES["demo"]
    own = lineage_of(recipe).name
    for same in (
        replace(recipe, name="another"),
        replace(recipe, challengers=("mlp",)),
        replace(recipe, seeds=5),
        replace(recipe, stride=4),
        replace(recipe, fit=replace(recipe.fit, epochs=1)),
    ):
        assert lineage_of(same).name == own
    for other in (
        replace(recipe, width="5m"),
        replace(recipe, feature_set="candles"),
        replace(recipe, instruments=("hyperliquid|perp|BTC",)),
        replace(recipe, label=replace(recipe.label, horizon_bars=6)),
        replace(recipe, position=replace(recipe.position, hold_bars=6)),
        replace(recipe, costs=replace(recipe.costs, half_spread_bps=2.0)),
    ):
        assert lineage_of(other).name != own


def test_record_of_earlier_nights_is_read_back(tmp_path: Path) -> None:
    home = SmallHome()
    with Lake.open(settings_in(tmp_path)) as lake:
        for number, stop in enumerate((40, 45, 45)):
            night = f"night-{number}"
            record = read_gate_record(lake, night=night)
            assert record == home.record
            decided = home.judge(net_of(NOISE[:stop]))
            now_ns = 10 * (number + 1)
            event = replace(event_of(decided.kept), event="rejected", night=night, ts_knowable_ns=now_ns)
            rows = evidence_rows(OWN, "demo", night, now_ns, decided.collected)
            append_events(lake, [event], batch_id=night, further=rows)
        # A night judged again meets the record of the nights before it.
        assert len(read_gate_record(lake, night="night-1").days["own", NULL_ZERO]) == 40
        assert read_gate_record(lake, night="night-0") == GateRecord((), {})
        assert lake.query("SELECT DISTINCT source, night FROM gate_days ORDER BY night").to_pylist() == [
            {"source": "history", "night": "night-0"},
            {"source": "path", "night": "night-1"},
        ]
