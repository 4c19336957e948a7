"""The gate: it lets a good challenger through, and each rule alone can stop it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from training.evaluation.gate import (
    BacktestResult,
    ChampionComparison,
    Evidence,
    GateLimits,
    choose_challenger,
    decide,
)
from training.evaluation.metrics import Estimate


def traded(net: float, *, fills: int = 100, deflated: float = 0.99) -> BacktestResult:
    return BacktestResult(
        gross=net + 0.01,
        fee=0.006,
        spread=0.003,
        impact=0.001,
        funding=0.0,
        net=net,
        fills=fills,
        sharpe=0.2,
        deflated_sharpe=deflated,
    )


GOOD = Evidence(
    challenger="mlp",
    controls=("zero", "momentum", "ridge"),
    leaks=0,
    features_proven=True,
    ic=Estimate(0.05, 0.02, 0.08),
    seed_ics=(0.05, 0.045),
    traded={"zero": traded(0.0), "momentum": traded(-0.02), "ridge": traded(0.01), "mlp": traded(0.04)},
    versus=ChampionComparison("old", 500, challenger_net=0.02, champion_net=0.01),
)
LIMITS = GateLimits()


def test_good_challenger_is_promoted() -> None:
    verdict = decide(GOOD, LIMITS)
    assert verdict.promoted
    assert [rule.name for rule in verdict.rules] == [
        "leaks",
        "feature proof",
        "ic",
        "fills",
        "beats zero",
        "beats momentum",
        "beats ridge",
        "deflated sharpe",
        "seed spread",
        "beats champion",
    ]
    assert all(rule.reason for rule in verdict.rules)


@pytest.mark.parametrize(
    ("rule", "worse"),
    [
        ("leaks", {"leaks": 1}),
        ("feature proof", {"features_proven": False}),
        ("ic", {"ic": Estimate(0.05, -0.001, 0.1)}),
        ("ic", {"ic": Estimate(math.nan, math.nan, math.nan)}),
        ("fills", {"traded": GOOD.traded | {"mlp": traded(0.04, fills=29)}}),
        ("beats zero", {"traded": GOOD.traded | {"zero": traded(0.05)}}),
        ("beats momentum", {"traded": GOOD.traded | {"momentum": traded(0.04)}}),
        ("beats ridge", {"traded": GOOD.traded | {"ridge": traded(0.05)}}),
        ("deflated sharpe", {"traded": GOOD.traded | {"mlp": traded(0.04, deflated=0.949)}}),
        ("seed spread", {"seed_ics": (0.08, 0.02)}),
        ("seed spread", {"seed_ics": (0.05, math.nan)}),
        (
            "beats champion",
            {"versus": ChampionComparison("old", 500, challenger_net=0.01, champion_net=0.01)},
        ),
        ("beats champion", {"versus": ChampionComparison("old", 59, challenger_net=0.02, champion_net=0.01)}),
        (
            "beats champion",
            {"versus": ChampionComparison("old", 0, math.nan, math.nan, obstacle="other features")},
        ),
    ],
)
def test_each_rule_alone_stops_it(rule: str, worse: dict[str, object]) -> None:
    verdict = decide(replace(GOOD, **worse), LIMITS)
    assert not verdict.promoted
    assert [item.name for item in verdict.rules if not item.passed] == [rule]


def test_first_version_needs_no_champion_and_one_seed_has_no_spread() -> None:
    verdict = decide(replace(GOOD, versus=None, seed_ics=(0.05,)), LIMITS)
    assert verdict.promoted
    reasons = {rule.name: rule.reason for rule in verdict.rules}
    assert reasons["beats champion"] == "nothing serves yet"
    assert reasons["seed spread"] == "not measured: the recipe trains one seed"


def test_champion_that_cannot_be_asked_is_named_with_the_reason() -> None:
    verdict = decide(
        replace(GOOD, versus=ChampionComparison("old", 0, 0.0, 0.0, obstacle="other features")), LIMITS
    )
    assert verdict.rules[-1].reason == "old cannot be asked: other features; retire it to promote without it"


def test_challenger_is_chosen_by_validation_alone() -> None:
    assert (
        choose_challenger({"lightgbm": [0.01, 0.02], "mlp": [0.04, math.nan], "lstm": [0.03, 0.0]}) == "mlp"
    )
    assert choose_challenger({"lightgbm": [math.nan], "mlp": [math.nan]}) == "lightgbm"
