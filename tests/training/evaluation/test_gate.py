"""The promotion gate: a good challenger passes, and each rule alone can stop it."""

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


def result(net: float, *, fills: int = 100, deflated: float = 0.99) -> BacktestResult:
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
    backtests={"zero": result(0.0), "momentum": result(-0.02), "ridge": result(0.01), "mlp": result(0.04)},
    champion=ChampionComparison("old", 500, challenger_net=0.02, champion_net=0.01),
)
LIMITS = GateLimits()


def test_good_challenger_is_promoted() -> None:
    decision = decide(GOOD, LIMITS)
    assert decision.promoted
    assert [rule.name for rule in decision.rules] == [
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
    assert all(rule.reason for rule in decision.rules)


@pytest.mark.parametrize(
    ("rule", "worse"),
    [
        ("leaks", {"leaks": 1}),
        ("feature proof", {"features_proven": False}),
        ("ic", {"ic": Estimate(0.05, -0.001, 0.1)}),
        ("ic", {"ic": Estimate(math.nan, math.nan, math.nan)}),
        ("fills", {"backtests": GOOD.backtests | {"mlp": result(0.04, fills=29)}}),
        ("beats zero", {"backtests": GOOD.backtests | {"zero": result(0.05)}}),
        ("beats momentum", {"backtests": GOOD.backtests | {"momentum": result(0.04)}}),
        ("beats ridge", {"backtests": GOOD.backtests | {"ridge": result(0.05)}}),
        ("deflated sharpe", {"backtests": GOOD.backtests | {"mlp": result(0.04, deflated=0.949)}}),
        ("seed spread", {"seed_ics": (0.08, 0.02)}),
        ("seed spread", {"seed_ics": (0.05, math.nan)}),
        (
            "beats champion",
            {"champion": ChampionComparison("old", 500, challenger_net=0.01, champion_net=0.01)},
        ),
        (
            "beats champion",
            {"champion": ChampionComparison("old", 59, challenger_net=0.02, champion_net=0.01)},
        ),
    ],
)
def test_each_rule_alone_stops_it(rule: str, worse: dict[str, object]) -> None:
    decision = decide(replace(GOOD, **worse), LIMITS)
    assert not decision.promoted
    assert [item.name for item in decision.rules if not item.passed] == [rule]


def test_first_version_needs_no_champion_and_one_seed_has_no_spread() -> None:
    decision = decide(replace(GOOD, champion=None, seed_ics=(0.05,)), LIMITS)
    assert decision.promoted
    reasons = {rule.name: rule.reason for rule in decision.rules}
    assert reasons["beats champion"] == "no version serves yet"
    assert reasons["seed spread"] == "not measured: the recipe trains one seed"


def test_champion_that_cannot_be_evaluated_counts_as_none() -> None:
    foreign = ChampionComparison("old", 0, math.nan, math.nan, obstacle="it was trained with other features")
    decision = decide(replace(GOOD, champion=foreign), LIMITS)
    rule = decision.rules[-1]
    assert decision.promoted
    assert (rule.name, rule.passed) == ("beats champion", True)
    assert rule.reason == (
        "old counts as no champion, since it cannot be evaluated: it was trained with other features"
    )


def test_challenger_is_chosen_by_validation_alone() -> None:
    assert (
        choose_challenger({"lightgbm": [0.01, 0.02], "mlp": [0.04, math.nan], "lstm": [0.03, 0.0]}) == "mlp"
    )
    assert choose_challenger({"lightgbm": [math.nan], "mlp": [math.nan]}) == "lightgbm"
