"""The gate's decision: evidence against every null hypothesis, and quotes for a version that serves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.training.evaluation.gate_simulation import DAY_NS, net_of
from training.evaluation.gate import (
    NULL_ZERO,
    ChampionComparison,
    EvidenceDays,
    GateDecision,
    compare_limits,
    decide,
    preconditions,
    weigh,
)
from training.evaluation.history import judge_history

SOUND = preconditions(leaks=0, features_proven=True, leak_suite="", champion=None)


def days_of(gain: float, count: int, *, quoted: bool = True) -> EvidenceDays:
    """Return days on which net is `gain` times the risk."""
    return EvidenceDays(
        net=np.full(count, gain),
        risk=np.ones(count),
        worst_loss=np.zeros(count),
        is_quoted=np.full(count, quoted),
    )


def weighed(
    days: EvidenceDays, *, null: str = NULL_ZERO, p_value: float | None = None, **changed: Any
) -> Any:
    arguments = {"null": null, "k": 1, "p_value": p_value, "is_quoted_start": True, "false_promotions": 0.05}
    return weigh(days, **arguments | changed)


NOTHING = days_of(0.0, 0)
STRONG = weighed(days_of(1.0, 60))
WEAK = weighed(days_of(0.1, 10))


def decided(*evidence: Any, **changed: Any) -> GateDecision:
    return decide("ridge", SOUND, evidence, **changed)


def test_evidence_promotes_and_its_absence_rejects() -> None:
    assert decided(STRONG).state == "champion"
    assert decided(WEAK).state == "rejected"
    assert decided().state == "rejected"
    assert decided(WEAK).reason.startswith("too little evidence: ")
    assert "that it earns more than zero" in decided(WEAK).reason


def test_every_null_hypothesis_must_be_rejected() -> None:
    other = weighed(days_of(0.1, 10), null="1a2b3c")
    decision = decided(STRONG, other)
    assert decision.state == "rejected"
    assert "earns more than 1a2b3c" in decision.reason
    assert [rule.passed for rule in decision.rules[-2:]] == [True, False]
    assert decided(STRONG, weighed(days_of(1.0, 60), null="1a2b3c")).promoted


def test_days_without_quotes_make_a_paper_version_at_most() -> None:
    unquoted = weighed(days_of(1.0, 60, quoted=False))
    assert unquoted.value >= unquoted.needed
    assert (unquoted.quoted_value, unquoted.quoted_days) == (1.0, 0)
    assert decided(unquoted).state == "paper"
    assert not decided(unquoted).promoted


def test_history_without_quotes_does_not_count_for_a_champion() -> None:
    bare = weighed(NOTHING, p_value=1e-4, is_quoted_start=False)
    assert bare.value >= bare.needed
    assert bare.quoted_value == 1.0
    assert decided(bare).state == "paper"
    assert decided(weighed(NOTHING, p_value=1e-4)).state == "champion"


def test_only_days_with_quotes_are_multiplied_for_a_champion() -> None:
    mixed = EvidenceDays(
        net=np.array([1.0, -2.0, 1.0]),
        risk=np.ones(3),
        worst_loss=np.zeros(3),
        is_quoted=np.array([True, False, True]),
    )
    assert weighed(mixed).quoted_value == pytest.approx(weighed(days_of(1.0, 2)).value)
    assert weighed(mixed).value < weighed(mixed).quoted_value


@pytest.mark.parametrize(
    ("failing", "name"),
    [
        ({"leaks": 1}, "leaks"),
        ({"features_proven": False}, "feature proof"),
        ({"leak_suite": "shifted labels: they are known"}, "leak suite"),
        (
            {"champion": ChampionComparison("old", 0, math.nan, math.nan, "gone", is_damaged=True)},
            "champion's files",
        ),
    ],
)
def test_each_precondition_stops_even_the_best_evidence(failing: dict[str, Any], name: str) -> None:
    checks = preconditions(
        **{"leaks": 0, "features_proven": True, "leak_suite": "", "champion": None} | failing
    )
    for renewal in (False, True):
        decision = decide("ridge", checks, [STRONG], is_renewal=renewal)
        assert (decision.state, decision.reason) == ("rejected", f"failed: {name}")


def test_foreign_champion_is_noted_and_stops_nothing() -> None:
    foreign = ChampionComparison("old", 0, math.nan, math.nan, obstacle="it was trained with other features")
    checks = preconditions(leaks=0, features_proven=True, leak_suite="", champion=foreign)
    assert checks[-1].passed
    assert checks[-1].reason == (
        "old counts as no champion, since it cannot be evaluated: it was trained with other features"
    )
    assert decide("ridge", checks, [STRONG]).promoted


def test_renewal_needs_no_further_evidence() -> None:
    decision = decided(WEAK, is_renewal=True)
    assert (decision.state, decision.reason) == ("champion", "renews the champion of its lineage")


def test_later_lineages_need_more() -> None:
    assert [weighed(NOTHING, k=k).needed for k in (1, 2, 3)] == pytest.approx([40, 120, 240])
    p_value = 0.01
    assert decided(weighed(NOTHING, p_value=p_value)).promoted
    assert not decided(weighed(NOTHING, p_value=p_value, k=2)).promoted


def test_other_limits_are_compared() -> None:
    arguments = {"days": NOTHING, "null": NULL_ZERO, "k": 1, "p_value": 0.01, "is_quoted_start": True}
    found = compare_limits([arguments])
    assert [row["serves"] for row in found] == [False, True, True, True]
    assert [row["needed"] for row in found] == pytest.approx([200, 40, 20, 10])
    assert compare_limits([]) == []


def test_history_is_tested_among_all_models() -> None:
    """The same path is weaker evidence among many models than alone."""
    rng = np.random.default_rng(4)
    path = net_of(rng.standard_normal(300))
    members = rng.standard_normal((300, 30))
    alone = judge_history(path, members[:, :0], least_block=1, alpha=0.025, draws=2_000)
    among = judge_history(path, members, least_block=1, alpha=0.025, draws=2_000)
    assert alone.p_value is not None
    assert among.p_value is not None
    assert alone.p_value < among.p_value
    assert alone.detectable_sharpe < among.detectable_sharpe
    assert (among.periods, among.statistic) == (300, pytest.approx(alone.statistic))


def test_history_that_was_spared_a_known_loss_is_no_proof() -> None:
    """Gains of 1 a day for 100 days, in a market that has taken 30 from such positions on one day."""
    net = 1 + 0.5 * np.random.default_rng(1).standard_normal(100)
    members = np.empty((100, 0))
    spared = judge_history(net_of(net), members, least_block=1, alpha=0.025, draws=1_000)
    known = judge_history(net_of(net, loss=30.0), members, least_block=1, alpha=0.025, draws=1_000)
    assert spared.p_value == pytest.approx(1 / 1_001)
    assert known.p_value is not None
    assert known.p_value > 0.0125


def test_short_history_is_no_test() -> None:
    path = net_of(np.ones(19))
    found = judge_history(path, np.empty((19, 0)), least_block=1, alpha=0.025)
    assert (found.p_value, found.blocks, found.detectable_sharpe) == (None, 0, math.inf)
    assert path.period_ns == DAY_NS
