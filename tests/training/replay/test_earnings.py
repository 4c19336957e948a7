"""Earnings of a sequence of versions, against a ledger computed by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.lake.fees import FeeSchedule
from storage.lake.lake import Lake
from tests.training.builders import GRACE_NS, MINUTE_NS, START_NS, panel_of, settings_in
from tests.training.memory_night import RECIPE, data_of
from training.evaluation.costs import Costs
from training.evaluation.positions import PositionRule
from training.night.artifacts import Predictions, write_predictions
from training.replay.earnings import measure_replay
from training.replay.folder import ReplayedNight, ReplayFolder
from training.replay.schedule import Schedule
from training.replay.serving import FollowingBars

FEE, HALF = 4e-4, 1e-4
CLOSE = [100.0, 101.0, 103.0, 102.0, 104.0, 107.0, 106.0, 103.0, 104.0, 102.0, 99.0, 98.0]
FUNDING = [0.0] * 3 + [1e-3] + [0.0] * 6 + [2e-3] + [0.0]
SMALL = replace(
    RECIPE,
    label=replace(RECIPE.label, horizon_bars=2),
    position=PositionRule(threshold=0.0, hold_bars=2),
    costs=Costs(half_spread_bps=HALF * 1e4, impact_bps=0.0, taker_fee_bps=FEE * 1e4),
)


def night_of(number: int, *, serving: str, is_demoted: bool = False) -> ReplayedNight:
    outcome = "promoted" if serving else "refused"
    return ReplayedNight(
        at_ns=START_NS + (1 + 4 * number) * MINUTE_NS,
        night=f"n{number}",
        outcome=outcome,
        is_demoted=is_demoted,
        reason="",
        model="ridge",
        evidence=1.0,
        needed=40.0,
        serving=serving,
        serving_night=f"n{number}" if serving else "",
        on_paper=bool(serving),
        newest_night=f"n{number}",
        folds=1,
    )


@pytest.fixture
def measured(tmp_path: Path) -> dict[str, object]:
    """The result of three nights: one serves long, is demoted by the second, and the third serves short."""
    panel = panel_of([CLOSE])
    data = data_of(panel, SMALL)
    labels = replace(data.labels, scale=torch.ones_like(data.labels.scale))
    following = FollowingBars(
        replace(data, labels=labels, funding_paid=np.array([FUNDING])), FeeSchedule("taker", "base", ())
    )
    replay = ReplayFolder.of(settings_in(tmp_path), "by-hand")
    nights = [
        night_of(0, serving="long"),
        night_of(1, serving="", is_demoted=True),
        night_of(2, serving="short"),
    ]
    for number, side in enumerate((1.0, 1.0, -1.0)):
        path = replay.night_file(number, "newest")
        path.parent.mkdir(parents=True, exist_ok=True)
        steps = np.arange(4 * number, 4 * number + 4, dtype=np.int32)
        nothing = np.full(4, np.nan, dtype=np.float32)
        found = Predictions(np.zeros(4, np.int32), steps, np.full(4, side, np.float32), nothing)
        write_predictions(path, found, panel)
    schedule = Schedule(nights[0].at_ns, START_NS + 13 * MINUTE_NS, 4 * MINUTE_NS)
    with Lake.open(replay.records) as records:
        return measure_replay(replay, records, following, SMALL, schedule, nights, grace_ns=GRACE_NS)


def test_earnings_across_changes_of_the_champion_equal_those_by_hand(measured: dict[str, object]) -> None:
    """Decided at bar 0, filled at 1, renewed at 2; at 4 nothing serves, so closed at 5. At 8 short, filled at 9."""
    long, short = 1 / CLOSE[1], -1 / CLOSE[9]
    gross = long * (CLOSE[5] - CLOSE[1]) + short * (CLOSE[11] - CLOSE[9])
    traded = 1 + long * CLOSE[5] + 1 + abs(short) * CLOSE[11]
    # Funding falls due at bars 3 and 10, on the position held into them; longs pay, and shorts receive.
    funding = long * CLOSE[3] * FUNDING[3] + short * CLOSE[10] * FUNDING[10]
    figures = measured["figures"]["served"]  # type: ignore[index]
    assert figures["fills"] == 4
    for name, value in (
        ("gross", gross),
        ("fee", traded * FEE),
        ("spread", traded * HALF),
        ("impact", 0.0),
        ("funding", funding),
        ("net", gross - traded * (FEE + HALF) - funding),
    ):
        assert figures[name] == pytest.approx(value, abs=1e-12), name


def test_the_newest_refit_serves_throughout_for_comparison(measured: dict[str, object]) -> None:
    """Long from bar 1, renewed while the second night's refit predicts the same, then reversed at 9."""
    long, short = 1 / CLOSE[1], -1 / CLOSE[9]
    gross = long * (CLOSE[9] - CLOSE[1]) + short * (CLOSE[11] - CLOSE[9])
    figures = measured["figures"]["newest refit"]  # type: ignore[index]
    assert figures["fills"] == 3
    assert figures["gross"] == pytest.approx(gross, abs=1e-12)


def test_who_served_and_what_changed_is_told(measured: dict[str, object]) -> None:
    assert measured["served_share"] == pytest.approx(8 / 12)
    served = measured["served"]
    assert [(part["first"], part["stop_ns"] - part["start_ns"]) for part in served] == [  # type: ignore[attr-defined]
        ("long", 4 * MINUTE_NS),
        ("short", 4 * MINUTE_NS),
    ]
    kinds = [change["kind"] for change in measured["changes"]]  # type: ignore[attr-defined]
    assert kinds == ["promoted", "demoted", "promoted"]
    assert measured["counts"] == {
        "nights": 3, "promoted": 2, "renewed": 0, "refused": 1, "failed": 0, "demoted": 1,
    }  # fmt: skip
    drawdown = measured["figures"]["served"]["drawdown"]  # type: ignore[index]
    curve = np.array(measured["curves"]["served"]["net"])  # type: ignore[index]
    assert drawdown == pytest.approx((np.maximum.accumulate(np.maximum(curve, 0)) - curve).max())
