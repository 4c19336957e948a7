"""A finished replay of 40 nights, written by hand: a version on paper, its demotion, and a champion."""

from __future__ import annotations

import math

from serving.report.replay_page import ReplayReport
from storage.clock import DAY_NS, parse_time_ns
from training.recipe import RECIPES
from training.replay.earnings import GATE_PATH, NEWEST, SEQUENCE
from training.replay.folder import ReplayedNight

START_NS = parse_time_ns("2025-01-01T08:00")
NIGHTS = 40
HOSTILE = "<script>document.title='run'</script>"


def replay_report() -> ReplayReport:
    """Return what the page of the replay is made from."""
    nights = [_night(number) for number in range(NIGHTS)]
    stop_ns = START_NS + NIGHTS * DAY_NS
    times = [START_NS + (number + 1) * DAY_NS for number in range(NIGHTS)]
    result = {
        "figures": {
            SEQUENCE: _figures(0.12, fills=80),
            NEWEST: _figures(-0.03, fills=120),
            GATE_PATH: {"net": 0.05, "sharpe": None, "drawdown": 0.02, "periods": NIGHTS - 2},
        },
        "curves": {
            name: {"ts_ns": times, "net": [scale * math.sin(at / 9) for at in range(NIGHTS)]}
            for name, scale in ((SEQUENCE, 0.1), (NEWEST, -0.05), (GATE_PATH, 0.03))
        },
        "period_ns": DAY_NS,
        "served": [_served(5, 15, on_paper=True), _served(20, NIGHTS, on_paper=False)],
        "changes": [
            {"at_ns": START_NS + day * DAY_NS, "kind": kind, "night": f"candles-{day:012x}"}
            for day, kind in ((5, "promoted"), (15, "demoted"), (20, "promoted"))
        ],
        "counts": {"nights": NIGHTS, "promoted": 2, "renewed": 28, "refused": 9, "failed": 1, "demoted": 1},
        "served_share": 0.75,
        "has_funding": True,
        "quoted_share": 0.5,
    }
    facts = {
        "replay": "candles-0123456789ab",
        "recipe": RECIPES["candles"].to_plain(),
        "from_ns": START_NS,
        "to_ns": stop_ns,
        "every_ns": DAY_NS,
        **dict.fromkeys(("content_hash", "funding_hash", "fee_hash", "feature_fingerprint"), "0" * 64),
        "training_code": "0" * 16,
        "seed": 7,
        "false_promotions": 0.05,
        "device": "cpu",
        "hardware": "AVX2",
        "threads": 1,
    }
    return ReplayReport(facts, RECIPES["candles"], nights, result, "../models/replays/x/nights")


def _night(number: int) -> ReplayedNight:
    is_serving = 5 <= number < 15 or number >= 20
    outcome = "promoted" if number in (5, 20) else "renewed" if is_serving else "refused"
    if number == 2:
        outcome = "failed"
    return ReplayedNight(
        at_ns=START_NS + number * DAY_NS,
        night=f"candles-{number:012x}",
        outcome=outcome,
        is_demoted=number == 15,
        reason=f"feature {HOSTILE} is constant" if number == 2 else "too little evidence: 0.9 of 40",
        model="" if number == 2 else "ridge",
        evidence=None if number == 2 else 0.9 + number,
        needed=None if number == 2 else 40.0,
        serving=f"ridge-candles-{number:012x}" if is_serving else "",
        serving_night=f"candles-{number:012x}" if is_serving else "",
        on_paper=5 <= number < 15,
        newest_night=f"candles-{number:012x}",
        folds=5,
    )


def _served(first: int, stop: int, *, on_paper: bool) -> dict[str, object]:
    return {
        "start_ns": START_NS + first * DAY_NS,
        "stop_ns": START_NS + stop * DAY_NS,
        "first": f"ridge-candles-{first:012x}",
        "last": f"ridge-candles-{stop - 1:012x}",
        "refits": stop - first,
        "on_paper": on_paper,
    }


def _figures(net: float, *, fills: int) -> dict[str, float | int]:
    costs = {"fee": 0.02, "spread": 0.01, "impact": 0.005, "funding": -0.005}
    return {
        "gross": net + sum(costs.values()),
        **costs,
        "net": net,
        "fills": fills,
        "sharpe": 1.5,
        "drawdown": 0.04,
        "periods": NIGHTS - 1,
    }
